"""The whole list of overrides of Megatron Bridge's guide to Megatron-FSDP at once, over two processes: each key has its effect, or is named with the reason."""
import pytest
import yaml

from training import Training, comparable, load_checkpoint, write_corpus

NUMBERS = ["mixed_precision=null", "model.bf16=true", "model.params_dtype=torch.bfloat16", "model.calculate_per_token_loss=true", "model.seq_length=32",
           "train.train_iters=4", "train.global_batch_size=4", "train.micro_batch_size=1", "train.eval_iters=5"]
LAYOUT = ["model.tensor_model_parallel_size=1", "model.expert_model_parallel_size=2", "model.moe_token_dispatcher_type=alltoall",
          "model.recompute_granularity=full", "model.recompute_method=uniform", "model.recompute_num_layers=1", "ddp.grad_reduce_in_fp32=false",
          "ddp.use_megatron_fsdp=true", "ddp.use_distributed_optimizer=true", "ddp.data_parallel_sharding_strategy=optim_grads_params",
          "dist.use_megatron_fsdp=true", "dist.use_torch_fsdp2=false"]
FILES = ["checkpoint.ckpt_format=fsdp_dtensor", "logger.log_interval=1", "logger.log_throughput=true", "logger.log_throughput_to_tensorboard=true"]
SWITCHED_OFF = ["model.freeze_language_model=false", "model.freeze_vision_model=false", "model.freeze_vision_projection=false",
                "model.gradient_accumulation_fusion=false"]
NAMED = {"model.pipeline_dtype=torch.bfloat16": "activations travel between stages in the type they have",
         "model.init_model_with_meta_device=true": "parameters never get more memory than this rank keeps of them",
         "logger.wandb_project=project": "runs are followed through logger.jsonl and logger.tensorboard_dir",
         "logger.wandb_exp_name=name": "runs are followed through logger.jsonl and logger.tensorboard_dir"}
LIST = NUMBERS + LAYOUT + FILES + SWITCHED_OFF + list(NAMED)


@pytest.fixture
def training(ponte, tmp_path, tiny):
    folder, _ = tiny("qwen3_moe")
    corpus = write_corpus(tmp_path / "corpus", documents=40, shortest=40, longest=60)
    return Training(ponte, tmp_path, "--recipe", "qwen3_30b_a3b_pretrain_config", "--hf-model", folder, f"dataset.data_path=[{corpus}]",
                    "dataset.split='80,20,0'", "optimizer.lr=1e-3", "scheduler.lr_warmup_iters=0", f"logger.tensorboard_dir={tmp_path / 'curves'}")


def test_the_whole_list_runs_with_its_meaning(training, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.distributed.checkpoint import FileSystemReader
    run = tmp_path / "run"
    steps, result = training.run("--nproc-per-node", 2, *LIST, f"checkpoint.save={run}", name="guide")
    warned = {line.removeprefix("warning: ").split(" (")[0]: line for line in result.err.splitlines() if "has no effect here" in line}
    assert warned.keys() == NAMED.keys(), result.err
    assert all(reason in warned[key] for key, reason in NAMED.items()), warned
    # Batches, duration and evaluation.
    assert [s["iteration"] for s in steps] == [1, 2, 3, 4] and [s["consumed_samples"] for s in steps] == [4, 8, 12, 16] and "val_loss" in steps[-1]
    lines = [line for line in result.err.splitlines() if "lm loss:" in line]
    assert len(lines) == 4 and all("throughput per GPU" in line for line in lines)
    curves = EventAccumulator(str(tmp_path / "curves"))
    curves.Reload()
    assert any("throughput" in tag for tag in curves.Tags()["scalars"])
    # The numbers are those of one process that shares nothing out; bf16 rounds what travels.
    one, _ = training.run(*NUMBERS, "model.expert_model_parallel_size=1", "checkpoint.save=null", name="one")
    for mine, other in zip(steps, one, strict=True):
        assert mine["lm_loss"] == pytest.approx(other["lm_loss"], rel=2e-3) and mine["grad_norm"] == pytest.approx(other["grad_norm"], rel=2e-2)
    # Gradients in bf16 round, in fp32 they do not; those of divided parameters are added up after every micro-batch, others after the last.
    for setting in ("ddp.grad_reduce_in_fp32=true", "ddp.data_parallel_sharding_strategy=no_shard"):
        other, _ = training.run("--nproc-per-node", 2, *LIST, setting, f"checkpoint.save={tmp_path / setting}", name="other")
        assert comparable(other) != comparable(steps), setting
    # Both ranks wrote of each matrix, one alone of its experts; the file is Megatron-FSDP's.
    last = run / "iter_0000004"
    assert not (last / "common.pt").exists() and not (last / "metadata.json").exists()
    metadata = FileSystemReader(str(last)).read_metadata()
    writers = {}
    for index, place in metadata.storage_data.items():
        writers.setdefault(index.fqn, set()).add(place.relative_path.split("_")[2])
    layer = "model.module.decoder.layers.1."
    assert writers[layer + "self_attention.linear_qkv.weight"] == {"0", "1"}
    assert [writers[f"{layer}mlp.experts.linear_fc2.weight{e}"] for e in (0, 7)] == [{"0"}, {"1"}]
    assert all(tensor.dtype.itemsize == 4 for key, tensor in load_checkpoint(last).items() if key.startswith("model.module."))


@pytest.mark.fast
def test_the_list_in_a_file_says_the_same(training, ponte, tmp_path):
    sections = {"mixed_precision": None}
    for setting in LIST[1:]:
        section, (key, value) = setting.split(".", 1)[0], setting.split(".", 1)[1].split("=")
        sections.setdefault(section, {})[key] = yaml.safe_load(value)
    (tmp_path / "guide.yaml").write_text(yaml.safe_dump(sections))
    said = [ponte(*training.arguments(*words, "--dry-run", "--nproc-per-node", 2)) for words in (LIST, ["--config-file", tmp_path / "guide.yaml"])]
    documents = [yaml.safe_load(result.out) for result in said]
    assert documents[0] == documents[1]
    for setting in NUMBERS[1:-1] + LAYOUT + FILES:  # nothing lost on the way
        name, value = setting.split("=")
        assert documents[0][name.split(".")[0]][name.split(".")[1]] == yaml.safe_load(value), setting


@pytest.mark.fast
@pytest.mark.parametrize("setting, words", [("model.freeze_vision_model=true", "no vision tower"), ("model.freeze_language_model=true", "every weight"),
                                            ("dist.use_torch_fsdp2=true", "use_torch_fsdp2")])
def test_what_cannot_be_done_is_refused_with_its_reason(training, setting, words):
    assert words in training.run(*[s for s in LIST if s.split("=")[0] != setting.split("=")[0]], setting, "--nproc-per-node", 2, code=1)[1].err
