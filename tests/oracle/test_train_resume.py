"""Interrupted and continued is the same run, bit for bit; and nothing that interrupts it leaves half a checkpoint."""
import itertools
import os
import random
import shutil
import signal
import subprocess
import time

import pytest

from conftest import BIN, interrupted
from training import ONE_THREAD, Training, assert_same_tensors, comparable, expect_bitwise_resume, load_checkpoint, records, series, write_corpus

STEPS = 12


def training_in(folder, ponte, tiny):
    """12 steps of 4 samples over a corpus of 17 samples: the run crosses two ends of an epoch."""
    model, _ = tiny("qwen3")
    corpus = write_corpus(folder / "corpus", documents=12, shortest=40, longest=60)
    return Training(ponte, folder, "--hf-model", model, f"dataset.data_path=[{corpus}]", "dataset.split='100,0,0'", f"train.train_iters={STEPS}",
                    "dataset.order=megatron",
                    "train.global_batch_size=4", "train.micro_batch_size=2", "model.seq_length=32", "optimizer.lr=1e-3", "scheduler.lr_decay_style=cosine",
                    "scheduler.lr_warmup_iters=3", "validation.eval_interval=0", "checkpoint.save_interval=1", "logger.log_params_norm=true")


@pytest.fixture
def training(ponte, tmp_path, tiny):
    return training_in(tmp_path, ponte, tiny)


@pytest.fixture(scope="module")
def whole(ponte, tmp_path_factory, tiny):
    """The run left in peace: the records of its steps, and the folder of its last two checkpoints."""
    folder = tmp_path_factory.mktemp("whole")
    steps, _ = training_in(folder, ponte, tiny).run(f"checkpoint.save={folder / 'save'}", "checkpoint.most_recent_k=2", name="whole")
    assert len(steps) == STEPS
    return steps, folder / "save"


def test_a_batch_that_grows(ponte, tiny, tmp_path):
    """train.rampup_batch_size: steps of 2, 2, 4, 6, 8, 8 samples as Megatron reckons them, the schedule by samples, a checkpoint before each growth, losses that
    are the means of their samples', and the same run continued from the middle of the ramp, or on two replicas."""
    model, _ = tiny("qwen3")
    ramp = ("train.global_batch_size=8", "train.micro_batch_size=1", "train.rampup_batch_size=[2,2,12]", "scheduler.lr_decay_style=linear", "scheduler.lr_warmup_iters=0")
    expect_bitwise_resume(ponte, tmp_path, model, "fp32", *ramp)
    steps = records(tmp_path / "whole.jsonl")
    consumed = [step["consumed_samples"] for step in steps]
    assert consumed == [2, 4, 8, 14, 22, 30]
    assert [step["learning_rate"] for step in steps] == pytest.approx([1e-3 * (1 - samples / 48) for samples in consumed])
    assert sorted(p.name for p in (tmp_path / "whole").glob("iter_*")) == [f"iter_{step:07d}" for step in (2, 3, 4, 6)]
    still = Training(ponte, tmp_path, "--hf-model", model, f"dataset.data_path=[{tmp_path / 'corpus'}]", "dataset.split='100,0,0'", "model.seq_length=32",
                     "optimizer.lr=1e-20", "validation.eval_interval=0", "train.micro_batch_size=1")
    singly, _ = still.run("train.train_iters=48", "train.global_batch_size=1", name="singly")
    single = [step["lm_loss"] for step in singly]
    for number, settings in enumerate(([], ["--nproc-per-node", 2])):
        grown, result = still.run("train.train_iters=6", *ramp[:3], *settings, name=f"grown{number}")
        assert [step["consumed_samples"] for step in grown] == consumed and "batch size 4 from here on, before 2" in result.err
        means = [sum(single[first:last]) / (last - first) for first, last in zip([0, *consumed], consumed)]
        assert [step["lm_loss"] for step in grown] == pytest.approx(means, rel=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16_mixed", "fp16_mixed"])
def test_resumed_equals_uninterrupted(training, tmp_path, precision):
    settings = [] if precision == "fp32" else [f"mixed_precision={precision}"]
    settings += ["optimizer.loss_scale=null"] if precision == "fp16_mixed" else []
    whole, _ = training.run(*settings, f"checkpoint.save={tmp_path / 'whole'}", name="whole")
    assert len(whole) == STEPS
    for stop in (1, 5, 10):
        folder = tmp_path / f"part{stop}"
        first, result = training.run(*settings, f"checkpoint.save={folder}", f"train.exit_interval={stop}", name=f"part{stop}")
        assert len(first) == stop
        resumed, result = training.run(*settings, f"checkpoint.save={folder}", f"checkpoint.load={folder}", name=f"part{stop}")
        assert f"iteration {stop} of {STEPS}" in result.err
        assert comparable(resumed) == comparable(whole)
        for iteration in (stop + 1, STEPS):
            name = f"iter_{iteration:07d}"
            assert_same_tensors(load_checkpoint(tmp_path / "whole" / name), load_checkpoint(folder / name))
        shutil.rmtree(folder)


def test_saving_beside_training_writes_the_same_bytes(training, tmp_path):
    """The tensors move on while they are written; what is written is what they were."""
    for name, asynchronous in (("held", "false"), ("beside", "true")):
        _, result = training.run(f"checkpoint.save={tmp_path / name}", f"checkpoint.async_save={asynchronous}", "mixed_precision=bf16_mixed",
                                 "checkpoint.save_hf=true", name=name)
        assert ("beside training" in result.err) == (name == "beside")
    compared = 0
    for file in sorted((tmp_path / "held").rglob("*")):
        if file.is_dir() or file.name in ("run_config.yaml", "latest_train_state.pt"):
            continue
        assert file.read_bytes() == (tmp_path / "beside" / file.relative_to(tmp_path / "held")).read_bytes(), file
        compared += 1
    assert compared > 8 * STEPS
    assert tracked(tmp_path / "beside") == STEPS


@pytest.mark.parametrize("asynchronous", ["false", "true"])
def test_term_saves_and_resumes(training, tmp_path, whole, asynchronous):
    for number, step in ((signal.SIGTERM, 3), (signal.SIGINT, 1)):
        folder, log = tmp_path / f"stopped{number}", tmp_path / f"stopped{number}.jsonl"
        settings = [f"checkpoint.save={folder}", f"checkpoint.load={folder}", f"checkpoint.async_save={asynchronous}", "checkpoint.save_interval=1000"]
        assert start(training, *settings, log=log, **interrupted(record=step, signal=number)).wait() == 0
        assert records(log)[-1]["iteration"] == tracked(folder) == step
        resumed, _ = training.run(*settings, name=f"stopped{number}")
        assert comparable(resumed) == comparable(whole[0])


def test_continues_from_converted_checkpoints(training, ponte, tmp_path):
    """Through Megatron-FSDP's format, and through it and back: the same run, to the bit."""
    settings = ["mixed_precision=bf16_mixed", "checkpoint.save_interval=1000"]
    whole, _ = training.run(*settings, f"checkpoint.save={tmp_path / 'whole'}", name="whole")
    training.run(*settings, f"checkpoint.save={tmp_path / 'part'}", "train.exit_interval=5", name="part")
    ponte("convert", "--megatron-path", tmp_path / "part", "--save", tmp_path / "fsdp", "--ckpt-format", "fsdp_dtensor")
    ponte("convert", "--megatron-path", tmp_path / "fsdp", "--save", tmp_path / "back", "--ckpt-format", "torch_dist")
    name = f"iter_{STEPS:07d}"
    for source in ("fsdp", "back"):
        training.run(*settings, f"checkpoint.load={tmp_path / source}", f"checkpoint.save={tmp_path / ('on_' + source)}", name=source)
        assert comparable(records(tmp_path / f"{source}.jsonl")) == comparable(whole)[5:]
        assert_same_tensors(load_checkpoint(tmp_path / "whole" / name), load_checkpoint(tmp_path / f"on_{source}" / name))


def tracked(folder):
    tracker = folder / "latest_checkpointed_iteration.txt"
    return int(tracker.read_text()) if tracker.exists() else 0


def start(training, *settings, log, **environment):
    return subprocess.Popen([BIN / "ponte", *training.arguments(*settings, log=log)], stderr=subprocess.DEVNULL, env={**os.environ, **ONE_THREAD, **environment})


def assert_is_the_end_of(whole_folder, folder):
    """Two checkpoints are kept, the trackers and nothing else; the newest is that of the run that was left in peace."""
    names = {path.name for path in folder.iterdir()}
    newest, before = (f"iter_{step:07d}" for step in (STEPS, STEPS - 1))
    assert names == {before, newest, "latest_checkpointed_iteration.txt", "latest_train_state.pt"}
    assert_same_tensors(load_checkpoint(whole_folder / newest), load_checkpoint(folder / newest))


@pytest.mark.parametrize("asynchronous", ["false", "true"])
def test_kill_at_any_moment_leaves_the_last_checkpoint_whole(training, tmp_path, whole, asynchronous):
    generator, folder, log = random.Random(5), tmp_path / "killed", tmp_path / "killed.jsonl"
    settings = [f"checkpoint.save={folder}", f"checkpoint.load={folder}", "checkpoint.most_recent_k=2", f"checkpoint.async_save={asynchronous}"]
    for _ in range(4):  # four lives, each ended at some instant of a loop that saves at every step, or after the last
        before = len(records(log)) if log.exists() else 0
        process = start(training, *settings, log=log)
        while process.poll() is None and not (log.exists() and len(records(log)) > before):
            time.sleep(0.002)
        time.sleep(generator.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        process.wait()
        if tracked(folder):
            load_checkpoint(folder / f"iter_{tracked(folder):07d}")
    resumed, _ = training.run(*settings, name="killed")
    assert comparable(resumed) == comparable(whole[0])
    assert_is_the_end_of(whole[1], folder)


@pytest.mark.parametrize("asynchronous", ["false", "true"])
def test_kill_before_every_change_of_a_file(training, tmp_path, whole, asynchronous):
    """One life after the other goes on from where the last was ended: before its first change of a file, its second, ..."""
    folder, log = tmp_path / "killed", tmp_path / "killed.jsonl"
    settings = [f"checkpoint.save={folder}", f"checkpoint.load={folder}", "checkpoint.most_recent_k=2", f"checkpoint.async_save={asynchronous}"]
    killed = 0
    for change in itertools.count(1):
        before = tracked(folder)
        status = start(training, *settings, log=log, **interrupted(change=change)).wait()
        if status == 0:
            break
        assert status == -signal.SIGKILL
        killed += 1
        assert tracked(folder) >= before
        if tracked(folder):
            load_checkpoint(folder / f"iter_{tracked(folder):07d}")
    assert killed > 60  # all changes of one save and one removal at the least
    assert comparable(records(log)) == comparable(whole[0])
    assert_is_the_end_of(whole[1], folder)


def test_clears_away_what_killed_runs_left(training, tmp_path, whole):
    folder = tmp_path / "run"
    settings = [f"checkpoint.save={folder}", f"checkpoint.load={folder}", "checkpoint.most_recent_k=2"]
    training.run(*settings, "train.exit_interval=5", name="run")
    gone = "0123abcd-1-1"  # a process of another machine: under the folder's lock it is known to be gone
    for name in (f".iter_0000003.partial-{gone}", f".iter_0000006.partial-{gone}"):
        shutil.copytree(folder / "iter_0000004", folder / name)
    (folder / f".latest_train_state.pt.partial-{gone}").write_bytes(b"half")
    (folder / ".ponte.lock").write_text("a training run that was killed")
    (folder / "iter_0000005").rename(folder / f".iter_0000005.replaced-{gone}")  # killed between two renames
    shutil.copytree(folder / "iter_0000004", folder / "iter_0000002")            # killed before it removed old ones
    _, result = training.run(*settings, name="run")
    assert "at iteration 5 of 12" in result.err
    assert_is_the_end_of(whole[1], folder)
    shutil.copytree(folder / "iter_0000011", folder / "iter_0000003")
    training.run(*settings, name="run")  # nothing to train; the removal is still made up for
    assert_is_the_end_of(whole[1], folder)


def test_one_run_to_a_folder(training, tmp_path):
    folder, log = tmp_path / "run", tmp_path / "run.jsonl"
    settings = [f"checkpoint.save={folder}", f"checkpoint.load={folder}"]
    first = start(training, *settings, "train.train_iters=100000", "checkpoint.save_interval=1000000", log=log)
    while not (log.exists() and records(log)):
        assert first.poll() is None
        time.sleep(0.005)
    _, result = training.run(*settings, name="second", code=1)
    assert f"checkpoint.save {folder} is being written to by a training run, process {first.pid} on " in result.err
    first.kill()
    first.wait()
    training.run(*settings, "checkpoint.save_interval=1000", name="second")
    assert not (folder / ".ponte.lock").exists()


def test_refuses_to_continue_another_run(training, tmp_path):
    folder = tmp_path / "run"
    training.run(f"checkpoint.save={folder}", "train.exit_interval=4", name="first")
    load = [f"checkpoint.save={folder}", f"checkpoint.load={folder}"]
    other = write_corpus(tmp_path / "other", documents=12, shortest=40, longest=60, seed=8)
    cases = [("train.train_iters=13", "its sample order was made for 48 training samples and this run asks for 52"),
             (f"dataset.data_path=[{other}]", "it was trained on other data"),
             ("rng.seed=77", "it was trained on other data"),
             ("optimizer.lr=2e-3", "max_lr 0.001 and this run 0.002"),
             ("checkpoint.ckpt_step=3000", "checkpoint.ckpt_step 3000 is not there")]
    for change, message in cases:
        _, result = training.run(*load, change, name="refused", code=1)
        assert message in result.err, result.err
    _, result = training.run(f"checkpoint.save={folder}", name="again", code=1)
    assert "another run has left iterations" in result.err
    # What may change: the schedule when it is said, and the weights alone.
    training.run(*load, "optimizer.lr=2e-3", "scheduler.override_opt_param_scheduler=true", "train.exit_interval=6", name="override")
    steps, _ = training.run(f"checkpoint.load={folder}", "checkpoint.finetune=true", "train.train_iters=2", "scheduler.lr_warmup_iters=1", name="finetune")
    assert [s["consumed_samples"] for s in steps] == [4, 8]


def test_continues_finished_runs_by_doing_nothing(training, tmp_path):
    folder = tmp_path / "run"
    settings = [f"checkpoint.save={folder}", f"checkpoint.load={folder}", "checkpoint.save_interval=1000"]
    training.run(*settings, name="first")
    steps, result = training.run(*settings, name="first")
    assert series(steps, "iteration") == {i: i for i in range(1, STEPS + 1)}
