"""Interrupted and continued is the same run, bit for bit; and nothing that interrupts it leaves half a checkpoint."""
import os
import random
import signal
import subprocess
import time

import pytest

from conftest import BIN
from training import ONE_THREAD, Training, assert_same_tensors, load_checkpoint, records, series, write_corpus

STEPS = 12


@pytest.fixture
def training(ponte, tmp_path, tiny):
    """12 steps of 4 samples over a corpus of 17 samples: the run crosses two ends of an epoch."""
    folder, _ = tiny("qwen3")
    corpus = write_corpus(tmp_path / "corpus", documents=12, shortest=40, longest=60)
    return Training(ponte, tmp_path, "--hf-model", folder, f"dataset.data_path=[{corpus}]", "dataset.split='100,0,0'", f"train.train_iters={STEPS}",
                    "train.global_batch_size=4", "train.micro_batch_size=2", "model.seq_length=32", "optimizer.lr=1e-3", "scheduler.lr_decay_style=cosine",
                    "scheduler.lr_warmup_iters=3", "validation.eval_interval=0", "checkpoint.save_interval=1", "logger.log_params_norm=true")


def comparable(steps):
    timing = {"tokens_per_second", "ms_per_iteration"}
    return [{key: value for key, value in step.items() if key not in timing} for step in steps]


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


def test_term_saves_and_resumes(training, tmp_path):
    whole, _ = training.run(f"checkpoint.save={tmp_path / 'whole'}", name="whole")
    for number in (signal.SIGTERM, signal.SIGINT):
        folder, log = tmp_path / f"stopped{number}", tmp_path / f"stopped{number}.jsonl"
        settings = [f"checkpoint.save={folder}", f"checkpoint.load={folder}", "checkpoint.save_interval=1000"]
        process = subprocess.Popen([BIN / "ponte", *training.arguments(*settings, log=log)], stderr=subprocess.PIPE, text=True,
                                   env={**os.environ, **ONE_THREAD})
        while not (log.exists() and len(records(log)) >= 2):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.005)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        done = records(log)[-1]["iteration"]
        assert int((folder / "latest_checkpointed_iteration.txt").read_text()) == done
        resumed, _ = training.run(*settings, name=f"stopped{number}")
        assert comparable(resumed) == comparable(whole)


def test_kill_leaves_the_last_checkpoint_whole(training, tmp_path):
    whole, _ = training.run(f"checkpoint.save={tmp_path / 'whole'}", name="whole")
    generator, folder, log = random.Random(5), tmp_path / "killed", tmp_path / "killed.jsonl"
    settings = [f"checkpoint.save={folder}", f"checkpoint.load={folder}", "checkpoint.most_recent_k=2"]
    for _ in range(4):  # four lives, each ended at some instant of a loop that saves at every step
        before = len(records(log)) if log.exists() else 0
        process = subprocess.Popen([BIN / "ponte", *training.arguments(*settings, log=log)], stderr=subprocess.DEVNULL, env={**os.environ, **ONE_THREAD})
        while process.poll() is None and not (log.exists() and len(records(log)) > before):
            time.sleep(0.002)
        time.sleep(generator.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        process.wait()
        tracked = int((folder / "latest_checkpointed_iteration.txt").read_text()) if (folder / "latest_checkpointed_iteration.txt").exists() else 0
        if tracked:
            load_checkpoint(folder / f"iter_{tracked:07d}")
    resumed, _ = training.run(*settings, name="killed")
    assert comparable(resumed) == comparable(whole)
    assert sorted(os.listdir(folder))[:2] == ["iter_0000011", "iter_0000012"] and not [n for n in os.listdir(folder) if n.startswith(".")]
    assert_same_tensors(load_checkpoint(tmp_path / "whole" / "iter_0000012"), load_checkpoint(folder / "iter_0000012"))


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
    training.run(f"checkpoint.save={folder}", name="first")
    steps, result = training.run(f"checkpoint.save={folder}", f"checkpoint.load={folder}", name="first")
    assert series(steps, "iteration") == {i: i for i in range(1, STEPS + 1)}
