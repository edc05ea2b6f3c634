"""Training by several processes: the same losses as one, checkpoints that any layout continues, and ranks that die."""
import os
import pathlib
import signal
import subprocess
import time

import pytest

from conftest import BIN
from training import ONE_THREAD, Training, assert_same_tensors, load_checkpoint, records, series, write_corpus

STEPS = 4
FULLY_SHARDED = ["ddp.use_megatron_fsdp=true", "ddp.data_parallel_sharding_strategy=optim_grads_params"]
LAYOUTS = {
    "dp2": (2, []),
    "dp2, distributed optimizer": (2, ["ddp.use_distributed_optimizer=true", "ddp.bucket_size=3000"]),
    "tp2": (2, ["model.tensor_model_parallel_size=2"]),
    "tp2, sequence parallel": (2, ["model.tensor_model_parallel_size=2", "model.sequence_parallel=true"]),
    "tp2 dp2, distributed optimizer": (4, ["model.tensor_model_parallel_size=2", "ddp.use_distributed_optimizer=true"]),
    "tp4, two ranks to a query group": (4, ["model.tensor_model_parallel_size=4"]),
    "pp2": (2, ["model.pipeline_model_parallel_size=2"]),
    "pp2 dp2, distributed optimizer": (4, ["model.pipeline_model_parallel_size=2", "ddp.use_distributed_optimizer=true"]),
    "pp3, a stage without layers": (3, ["model.pipeline_model_parallel_size=3", "model.pipeline_model_parallel_layout=Ett||ttL"]),
    "cp2": (2, ["model.context_parallel_size=2"]),
    "pp2 vpp2": (2, ["model.pipeline_model_parallel_size=2", "model.virtual_pipeline_model_parallel_size=2"]),
    "cp4 in levels": (4, ["model.context_parallel_size=4", "model.cp_comm_type=a2a+p2p", "model.hierarchical_context_parallel_sizes=[2,2]"]),
    "pp2 vpp2 tp2, distributed optimizer": (4, ["model.pipeline_model_parallel_size=2", "model.num_layers_per_virtual_pipeline_stage=1",
                                                "model.tensor_model_parallel_size=2", "ddp.use_distributed_optimizer=true"]),
    "dp2, sharded parameters": (2, [*FULLY_SHARDED, "ddp.overlap_grad_reduce=true", "ddp.overlap_param_gather=true"]),
    "dp4, sharded gradients": (4, ["ddp.use_megatron_fsdp=true", "ddp.data_parallel_sharding_strategy=optim_grads"]),
    "tp2 dp2, sharded parameters": (4, [*FULLY_SHARDED, "model.tensor_model_parallel_size=2", "model.sequence_parallel=true"]),
    "dp4, two copies that share the optimizer": (4, [*FULLY_SHARDED, "ddp.num_distributed_optimizer_instances=2", "ddp.outer_dp_sharding_strategy=optim"]),
}
EXPERT_LAYOUTS = {
    "ep2": (2, ["model.expert_model_parallel_size=2"]),
    "ep2 etp2": (4, ["model.expert_model_parallel_size=2", "model.expert_tensor_parallel_size=2"]),
    "ep4, tp2, sequence parallel, distributed optimizer": (4, ["model.expert_model_parallel_size=4", "model.expert_tensor_parallel_size=1",
                                                               "model.tensor_model_parallel_size=2", "model.sequence_parallel=true",
                                                               "ddp.use_distributed_optimizer=true"]),
    "pp2 ep2": (4, ["model.pipeline_model_parallel_size=2", "model.expert_model_parallel_size=2"]),
    "dp4 ep2, sharded parameters": (4, [*FULLY_SHARDED, "model.expert_model_parallel_size=2", "ddp.overlap_param_gather=true"]),
    "cp2 ep2, tokens gathered": (2, ["model.context_parallel_size=2", "model.expert_model_parallel_size=2", "model.moe_token_dispatcher_type=allgather"]),
}
HYBRID_LAYOUTS = {
    "pp2": LAYOUTS["pp2"],
    "pp2 vpp2": LAYOUTS["pp2 vpp2"],
    "tp2 ep2": (2, ["model.tensor_model_parallel_size=2", "model.expert_model_parallel_size=2", "model.expert_tensor_parallel_size=1"]),
    "cp2 dp2 ep2, distributed optimizer": (4, ["model.context_parallel_size=2", "model.expert_model_parallel_size=2", "ddp.use_distributed_optimizer=true"]),
}


@pytest.fixture
def training(ponte, tmp_path, tiny):
    folder, _ = tiny("qwen3", num_hidden_layers=4)
    corpus = write_corpus(tmp_path / "corpus", documents=12, shortest=40, longest=60)
    return Training(ponte, tmp_path, "--hf-model", folder, f"dataset.data_path=[{corpus}]", "dataset.split='80,20,0'", f"train.train_iters={STEPS}",
                    "train.global_batch_size=4", "train.micro_batch_size=1", "model.seq_length=32", "optimizer.lr=1e-3", "scheduler.lr_warmup_iters=1",
                    "validation.eval_interval=2", "validation.eval_iters=1", "logger.log_params_norm=true", "optimizer.log_num_zeros_in_grad=true",
                    "dist.distributed_timeout_seconds_after_init=200")


def run(training, layout, *more, layouts=LAYOUTS, **options):
    processes, settings = layouts[layout] if layout else (1, [])
    return training.run(*(["--nproc-per-node", processes] if layout else []), *settings, *more, **options)


def assert_close(steps, wanted, tolerance):
    assert [s["iteration"] for s in steps] == [s["iteration"] for s in wanted]
    for mine, other in zip(steps, wanted):
        assert mine.keys() == other.keys()
        for key in {"lm_loss", "grad_norm", "params_norm", "val_loss"} & mine.keys():
            assert mine[key] == pytest.approx(other[key], rel=tolerance), (mine["iteration"], key)
        for key in ("learning_rate", "consumed_samples"):
            assert mine[key] == other[key]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_losses_of_one_process(training, layout):
    one, _ = run(training, None, name="one")
    assert len(one) == STEPS
    many, result = run(training, layout, name="many")
    assert_close(many, one, 2e-6)
    assert "[rank" not in result.err  # only one rank speaks


@pytest.fixture(scope="module")
def sparse_trainings(ponte, tmp_path_factory, tiny, golden):
    """For experts and for hybrid layers with a prediction layer: the training and its steps on one process."""
    out = {}
    for name, folder in (("experts", tiny("qwen3_moe", num_hidden_layers=4)[0]), ("hybrid", golden / "qwen3_next_mtp/hf")):
        here = tmp_path_factory.mktemp(name)
        corpus = write_corpus(here / "corpus", documents=12, shortest=40, longest=60)
        training = Training(ponte, here, "--hf-model", folder, f"dataset.data_path=[{corpus}]", "dataset.split='80,20,0'", "train.train_iters=3",
                            "train.global_batch_size=4", "train.micro_batch_size=1", "model.seq_length=32", "optimizer.lr=1e-3", "mixed_precision=null",
                            "model.params_dtype=torch.float32", "model.bf16=false", "model.moe_aux_loss_coeff=0.02", "model.moe_z_loss_coeff=0.01",
                            "model.moe_router_load_balancing_type=global_aux_loss", "validation.eval_interval=3", "validation.eval_iters=2",
                            "dist.distributed_timeout_seconds_after_init=200")
        out[name] = training, run(training, None, name="one")[0]
    return out


@pytest.mark.parametrize("kind, layout", [("experts", layout) for layout in EXPERT_LAYOUTS] + [("hybrid", layout) for layout in HYBRID_LAYOUTS])
def test_losses_and_reports_of_sparse_models(sparse_trainings, kind, layout):
    training, one = sparse_trainings[kind]
    many, _ = run(training, layout, layouts=EXPERT_LAYOUTS if kind == "experts" else HYBRID_LAYOUTS, name="many")
    assert_close(many, one, 1e-5)
    for mine, other in zip(many, one):
        for key in {"load_balancing_loss", "z_loss", "mtp_1 loss"} & other.keys():
            assert mine[key] == pytest.approx(other[key], rel=1e-5), (mine["iteration"], key)
        assert mine["expert_load"] == [pytest.approx(layer) for layer in other["expert_load"]]
        assert len(mine["expert_load"]) == (4 if kind == "experts" else 5)
    assert "load_balancing_loss" in one[0] and "z_loss" in one[0] and (kind == "experts" or "mtp_1 loss" in one[0])


def test_optimizers_over_replicas_give_the_same_bits(training, tmp_path):
    for name in ("dp2", "dp2, distributed optimizer"):
        run(training, name, "mixed_precision=bf16_mixed", f"checkpoint.save={tmp_path / name}", name=name)
    last = f"iter_{STEPS:07d}"
    assert_same_tensors(load_checkpoint(tmp_path / "dp2" / last), load_checkpoint(tmp_path / "dp2, distributed optimizer" / last))


@pytest.mark.parametrize("gradients", ["true", "false"])
def test_sharding_changes_no_bit_where_sums_are_the_same(training, tmp_path, gradients):
    """One micro-batch per replica: whatever replicas share out, each element is the same sum. Collectives beside computation change nothing either."""
    overlapped = ["ddp.overlap_grad_reduce=true", "ddp.overlap_param_gather=true"]
    checkpoints = []
    strategies = [("no_shard", overlapped), ("optim", []), ("optim", overlapped), ("optim_grads", []), ("optim_grads_params", overlapped)]
    for number, (strategy, more) in enumerate(strategies):
        folder = tmp_path / f"{number}"
        training.run("--nproc-per-node", 2, "mixed_precision=bf16_mixed", "train.global_batch_size=2", f"ddp.grad_reduce_in_fp32={gradients}",
                     f"mixed_precision.grad_reduce_in_fp32={gradients}", "ddp.use_megatron_fsdp=true", f"ddp.data_parallel_sharding_strategy={strategy}",
                     "ddp.bucket_size=3000", *more, f"checkpoint.save={folder}", name=f"{number}")
        checkpoints.append(load_checkpoint(folder / f"iter_{STEPS:07d}"))
    for other in checkpoints[1:]:
        assert_same_tensors(other, checkpoints[0])


def test_megatron_fsdp_is_what_convert_makes(training, ponte, tmp_path):
    """Written by replicas that hold shares, tensor by tensor and object by object; one process with nothing shared out continues it to the same bits."""
    from safetensors.torch import load_file
    from torch.distributed.checkpoint import FileSystemReader
    name = "iter_0000002"
    for checkpoint_format in ("torch_dist", "fsdp_dtensor"):
        run(training, "tp2 dp2, sharded parameters", "mixed_precision=bf16_mixed", f"checkpoint.ckpt_format={checkpoint_format}", "train.exit_interval=2",
            "checkpoint.save_hf=true", f"checkpoint.save={tmp_path / checkpoint_format}", name=checkpoint_format)
    ponte("convert", "--megatron-path", tmp_path / "torch_dist", "--save", tmp_path / "converted", "--ckpt-format", "fsdp_dtensor")
    mine, converted = tmp_path / "fsdp_dtensor" / name, tmp_path / "converted" / name
    assert_same_tensors(load_checkpoint(mine), load_checkpoint(converted))
    assert FileSystemReader(str(mine)).read_metadata().state_dict_metadata.keys() == FileSystemReader(str(converted)).read_metadata().state_dict_metadata.keys()
    assert not (mine / "common.pt").exists() and not (mine / "metadata.json").exists()
    assert_same_tensors(load_file(mine / "hf/model.safetensors"), load_file(tmp_path / "torch_dist" / name / "hf/model.safetensors"))
    for source, more in (("torch_dist", []), ("fsdp_dtensor", ["--torch-dtype", "bf16"])):
        ponte("export", "--megatron-path", tmp_path / source, "--hf-path", tmp_path / f"{source}_hf", *more)
        assert_same_tensors(load_file(tmp_path / f"{source}_hf/model.safetensors"), load_file(mine / "hf/model.safetensors"))
    ponte("export", "--megatron-path", tmp_path / "fsdp_dtensor", "--hf-path", tmp_path / "main")  # the main parameters as they are
    for command in (["verify"], ["verify", "--forward"]):
        assert "equal" in ponte(*command, "--megatron-path", tmp_path / "fsdp_dtensor", "--hf-model", tmp_path / "main").out
    assert "content hashes: as written" in ponte("verify", "--megatron-path", mine).out
    assert '"format": "fsdp_dtensor"' in ponte("inspect", tmp_path / "fsdp_dtensor", "--json").out
    for start in ("torch_dist", "fsdp_dtensor"):
        training.run("mixed_precision=bf16_mixed", f"checkpoint.load={tmp_path / start}", f"checkpoint.save={tmp_path / ('on_' + start)}", name=f"on_{start}")
    assert_same_tensors(*(load_checkpoint(tmp_path / f"on_{start}" / f"iter_{STEPS:07d}") for start in ("torch_dist", "fsdp_dtensor")))


def test_checkpoints_continue_on_any_layout(training, tmp_path):
    """Each layout loads what the one before wrote, skips a step, and writes the same bits again."""
    whole, _ = run(training, None, name="whole")
    run(training, None, f"checkpoint.save={tmp_path / 'start'}", "train.exit_interval=2")
    origin = load_checkpoint(tmp_path / "start" / "iter_0000002")
    last = tmp_path / "start"
    for number, layout in enumerate(LAYOUTS):
        folder = tmp_path / f"next{number}"
        run(training, layout, f"checkpoint.load={last}", f"checkpoint.ckpt_step={2 if number == 0 else 3}", f"checkpoint.save={folder}",
            "train.iterations_to_skip=[3]" if number == 0 else "train.iterations_to_skip=[4]", f"train.exit_interval={3 if number == 0 else 4}",
            f"train.train_iters={STEPS}")
        written = sorted(folder.glob("iter_*"))[-1]
        assert_same_tensors(load_checkpoint(written), origin)
        if number == 0:
            last = folder
    resumed, _ = run(training, "tp2 dp2, distributed optimizer", f"checkpoint.load={tmp_path / 'start'}", name="resumed")
    assert_close(resumed, whole[2:], 2e-6)


def test_weights_for_hugging_face_are_saved_by_many_ranks(training, tmp_path):
    from safetensors.torch import load_file
    for name, layout in (("one", None), ("many", "tp2 dp2, distributed optimizer")):
        run(training, layout, "train.iterations_to_skip=[1]", "train.exit_interval=1", "checkpoint.save_hf=true", f"checkpoint.save={tmp_path / name}")
    one, many = (load_file(tmp_path / name / "iter_0000001" / "hf" / "model.safetensors") for name in ("one", "many"))
    assert_same_tensors(one, many)


def test_saving_beside_training_writes_the_same_bytes(training, tmp_path):
    for name, asynchronous in (("held", "false"), ("beside", "true")):
        run(training, "tp2 dp2, distributed optimizer", f"checkpoint.save={tmp_path / name}", f"checkpoint.async_save={asynchronous}",
            "checkpoint.save_interval=1", name=name)
    for iteration in range(1, STEPS + 1):
        files = sorted((tmp_path / "held" / f"iter_{iteration:07d}").glob("__*.distcp"))
        assert len(files) == 8
        for file in files + [files[0].parent / "ponte/manifest.json", files[0].parent / ".metadata"]:
            assert file.read_bytes() == (tmp_path / "beside" / file.relative_to(tmp_path / "held")).read_bytes(), file


def test_configuration_errors_are_said_once(training):
    _, result = run(training, "dp2", "train.micro_batch_size=3", code=1)
    assert result.err.count("error:") == 1 and "train.micro_batch_size" in result.err


def test_axes_that_do_not_fit_are_said_once(sparse_trainings):
    training, _ = sparse_trainings["experts"]
    _, result = run(training, "pp2 ep2", "dist.use_tp_pp_dp_mapping=true", layouts=EXPERT_LAYOUTS, code=1)
    assert result.err.count("error:") == 1 and "put pp last" in result.err


def rank_of(process):
    try:
        words = pathlib.Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    return next((int(w[5:]) for w in words if w.startswith(b"RANK=")), None)


def ranks_below(launcher):
    """Rank to process number, of the launcher's children."""
    out = {}
    for task in pathlib.Path(f"/proc/{launcher}/task").iterdir():
        for child in (task / "children").read_text().split():
            if (rank := rank_of(child)) is not None:
                out[rank] = int(child)
    return out


class Interrupted:
    """A long run of which one rank is sent a signal after some steps."""

    def __init__(self, training, folder, number, rank, *more):
        self.log = folder / "interrupted.jsonl"
        command = training.arguments("--nproc-per-node", 2, "checkpoint.save_interval=1", f"checkpoint.save={folder / 'run'}", *more, log=self.log)
        self.process = subprocess.Popen([str(BIN / "ponte"), *map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                                        env={**os.environ, **ONE_THREAD})
        tracker = folder / "run" / "latest_checkpointed_iteration.txt"
        while not tracker.exists() and self.process.poll() is None:
            time.sleep(0.05)
        assert self.process.poll() is None, self.process.communicate()[1]
        self.victim = ranks_below(self.process.pid)[rank]
        os.kill(self.victim, number)
        self.err = self.process.communicate(timeout=300)[1]


@pytest.mark.parametrize("number, rank", [(signal.SIGKILL, 1), (signal.SIGKILL, 0), (signal.SIGSTOP, 1)])
def test_a_lost_rank_is_named_and_its_run_ends(training, tmp_path, number, rank):
    lost = Interrupted(training, tmp_path, number, rank, "train.train_iters=100000", "dist.distributed_timeout_seconds_after_init=6", "checkpoint.most_recent_k=2")
    assert lost.process.returncode == 1, lost.err
    assert f"rank {rank} was killed by signal 9" in lost.err or f"rank {rank} has died or stopped" in lost.err, lost.err
    assert "phase '" in lost.err
    assert not pathlib.Path(f"/proc/{lost.victim}").exists()
    saved = int((tmp_path / "run" / "latest_checkpointed_iteration.txt").read_text())
    assert load_checkpoint(tmp_path / "run" / f"iter_{saved:07d}")


def test_restarts_go_on_from_the_last_checkpoint(training, tmp_path):
    settings = ["train.train_iters=40", "validation.eval_interval=0"]
    whole, _ = training.run("--nproc-per-node", 2, *settings, name="whole")
    restarted = Interrupted(training, tmp_path, signal.SIGKILL, 1, *settings, "--max-restarts", 1)
    assert restarted.process.returncode == 0, restarted.err
    assert "starting the run again (1 of at most 1 restarts)" in restarted.err
    assert series(records(restarted.log), "lm_loss") == series(whole, "lm_loss")


@pytest.mark.parametrize("start", [["checkpoint.finetune=true"], ["checkpoint.ckpt_step=4", "checkpoint.load_optim=false"]], ids=["finetune", "another folder"])
def test_restarts_go_on_from_their_own_checkpoints_wherever_the_run_began(training, tmp_path, start):
    settings = ["train.train_iters=40", "validation.eval_interval=0"]
    training.run("--nproc-per-node", 2, *settings, "train.exit_interval=4", f"checkpoint.save={tmp_path / 'first'}", name="first")
    settings += [f"checkpoint.load={tmp_path / 'first'}", *start]
    whole, _ = training.run("--nproc-per-node", 2, *settings, name="whole")
    restarted = Interrupted(training, tmp_path, signal.SIGKILL, 1, *settings, "--max-restarts", 1)
    assert restarted.process.returncode == 0, restarted.err
    assert f"resuming from {tmp_path / 'run'}/iter_" in restarted.err, restarted.err
    assert series(records(restarted.log), "lm_loss") == series(whole, "lm_loss")
    assert not list((tmp_path / "run").glob(".*")), "what a launch marks goes with its end"


def test_asking_again_ends_ranks_that_cannot_stop(training, tmp_path):
    """One rank stands still, so that no step ends. The launcher passes on every signal, not the first alone."""
    log = tmp_path / "log.jsonl"
    process = subprocess.Popen([str(BIN / "ponte"), *training.arguments("--nproc-per-node", 2, "train.train_iters=100000", log=log)],
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env={**os.environ, **ONE_THREAD})
    while not (log.exists() and log.read_text()) and process.poll() is None:
        time.sleep(0.05)
    os.kill(ranks_below(process.pid)[1], signal.SIGSTOP)
    ranks = ranks_below(process.pid)
    while pathlib.Path(f"/proc/{ranks[0]}").exists():
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
    os.kill(ranks[1], signal.SIGKILL)
    err = process.communicate()[1]
    assert process.returncode == 1 and "rank 0 was killed by signal 15" in err, err


def test_term_stops_all_ranks_after_a_checkpoint(training, tmp_path):
    stopped = Interrupted(training, tmp_path, signal.SIGTERM, 1, "train.train_iters=100000", "checkpoint.most_recent_k=2")
    assert stopped.process.returncode == 0, stopped.err
    saved = int((tmp_path / "run" / "latest_checkpointed_iteration.txt").read_text())
    assert records(stopped.log)[-1]["iteration"] == saved
