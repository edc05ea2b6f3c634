"""Ranks started as torchrun, SLURM, OpenMPI and PyTorchJob start them: the same run each time; what is wrong on one rank is said once, by rank 0."""
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from conftest import BIN, ROOT
from test_processes import assert_close, ranks_below
from training import ONE_THREAD, Training, records, series, write_corpus

LAUNCHERS = {  # what rank r of n finds in its environment
    "PyTorchJob": lambda r, n, port: {"RANK": r, "WORLD_SIZE": n, "LOCAL_RANK": 0, "MASTER_ADDR": "localhost", "MASTER_PORT": port},
    "SLURM": lambda r, n, port: {"SLURM_PROCID": r, "SLURM_STEP_NUM_TASKS": n, "SLURM_NTASKS": 8, "SLURM_LOCALID": r,
                                 "SLURM_STEP_NODELIST": "localhost,other[3-5]", "SLURM_JOB_NODELIST": "first[1-9]", "MASTER_PORT": port},
    "OpenMPI": lambda r, n, port: {"OMPI_COMM_WORLD_RANK": r, "OMPI_COMM_WORLD_SIZE": n, "OMPI_COMM_WORLD_LOCAL_RANK": r,
                                   "OMPI_COMM_WORLD_LOCAL_SIZE": n, "MASTER_PORT": port},
}


@pytest.fixture
def training(ponte, tmp_path, tiny):
    folder, _ = tiny("qwen3")
    corpus = write_corpus(tmp_path / "corpus", documents=12, shortest=40, longest=60)
    return Training(ponte, tmp_path, "--hf-model", folder, f"dataset.data_path=[{corpus}]", "dataset.split='100,0,0'", "train.train_iters=2",
                    "train.global_batch_size=4", "train.micro_batch_size=1", "model.seq_length=32", "optimizer.lr=1e-3", "validation.eval_interval=0",
                    "model.tensor_model_parallel_size=2", "dist.distributed_timeout_seconds_after_init=200")


def free_port():
    with socket.socket() as s:
        s.bind(("", 0))
        return s.getsockname()[1]


def start(launcher, commands, folders=None):
    port = free_port()
    base = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "OMPI_", "MASTER_"))}
    processes = [subprocess.Popen([str(BIN / "ponte"), *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
                                  cwd=folders[r] if folders else None,
                                  env={**base, **ONE_THREAD, **{k: str(v) for k, v in LAUNCHERS[launcher](r, len(commands), port).items()}})
                 for r, command in enumerate(commands)]
    return [(p.communicate(timeout=280), p.returncode) for p in processes]


def test_a_rank_0_that_stands_still_is_not_waited_for(training, tmp_path):
    """It serves the store, where the others would read who is missing; nobody answers there, and no connection breaks."""
    log, port = tmp_path / "log.jsonl", free_port()
    arguments = training.arguments("train.train_iters=100000", "dist.distributed_timeout_seconds_after_init=4", log=log)
    ranks = [subprocess.Popen([str(BIN / "ponte"), *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                              env={**os.environ, **ONE_THREAD, **{k: str(v) for k, v in LAUNCHERS["PyTorchJob"](r, 2, port).items()}}) for r in (0, 1)]
    while not (log.exists() and log.read_text()) and ranks[0].poll() is None:
        time.sleep(0.05)
    ranks[0].send_signal(signal.SIGSTOP)
    try:
        said = ranks[1].communicate(timeout=200)[1]
    finally:
        ranks[0].kill()
        ranks[0].communicate()
    assert ranks[1].returncode == 1 and "the rank that holds it (rank 0, or the launcher) has died or stopped. Rank 1 waited in " in said, said


def losses(log):
    return [step["lm_loss"] for step in records(log)]


def test_every_launcher_gives_the_same_run(training, tmp_path):
    training.run("--nproc-per-node", 2, name="own")
    wanted = losses(tmp_path / "own.jsonl")
    assert len(wanted) == 2
    for launcher in LAUNCHERS:
        log = tmp_path / f"{launcher}.jsonl"
        ends = start(launcher, [training.arguments(log=log)] * 2)
        assert [status for _, status in ends] == [0, 0], ends
        assert losses(log) == wanted, launcher
    log = tmp_path / "torchrun.jsonl"
    assert torchrun(2, training.arguments(log=log)).returncode == 0
    assert losses(log) == wanted


def torchrun_command(processes, arguments, *flags):
    return [sys.executable, "-m", "torch.distributed.run", "--no-python", "--nproc-per-node", str(processes), "--master-port", str(free_port()), *flags,
            str(BIN / "ponte"), *arguments]


def torchrun(processes, arguments, *flags):
    return subprocess.run(torchrun_command(processes, arguments, *flags), capture_output=True, text=True, env={**os.environ, **ONE_THREAD}, timeout=280)


@pytest.mark.parametrize("processes, layout", [
    (2, ["ddp.use_megatron_fsdp=true", "ddp.data_parallel_sharding_strategy=optim_grads_params"]),
    (4, ["model.tensor_model_parallel_size=2", "model.sequence_parallel=true", "ddp.use_distributed_optimizer=true"])])
def test_ranks_of_torchrun_have_the_losses_of_one_process(training, tmp_path, processes, layout):
    alone = "model.tensor_model_parallel_size=1"
    one, _ = training.run(alone, name="one")
    done = torchrun(processes, training.arguments(alone, *layout, log=tmp_path / "many.jsonl"))
    assert done.returncode == 0, done.stderr
    assert_close(records(tmp_path / "many.jsonl"), one, 2e-6)


def test_torchrun_starts_a_run_again_from_its_last_checkpoint(training, tmp_path):
    """The command stays the same: what was in checkpoint.save is gone on from."""
    settings = ["train.train_iters=40", "train.global_batch_size=2"]
    training.run("--nproc-per-node", 2, *settings, name="whole")
    log, run = tmp_path / "restarted.jsonl", tmp_path / "run"
    arguments = training.arguments(*settings, "checkpoint.save_interval=1", f"checkpoint.save={run}", log=log)
    agent = subprocess.Popen(torchrun_command(2, arguments, "--max-restarts", "1", "--monitor-interval", "0.2"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                             env={**os.environ, **ONE_THREAD})
    while not (run / "latest_checkpointed_iteration.txt").exists() and agent.poll() is None:
        time.sleep(0.05)
    assert agent.poll() is None, agent.communicate()[1]
    os.kill(ranks_below(agent.pid)[1], signal.SIGKILL)
    said = agent.communicate(timeout=280)[1]
    assert agent.returncode == 0, said
    assert said.count("resuming from") == 1, said
    assert series(records(log), "lm_loss") == series(records(tmp_path / "whole.jsonl"), "lm_loss")


def test_a_batch_script_is_no_rank(training, tmp_path):
    """Outside of srun, in the shell that sbatch starts, SLURM speaks of all tasks already."""
    shell = {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_NODELIST": "first[1-9]", **ONE_THREAD}
    training.ponte(*training.arguments("model.tensor_model_parallel_size=1", log=tmp_path / "log.jsonl"), env=shell)
    assert len(losses(tmp_path / "log.jsonl")) == 2


@pytest.mark.parametrize("wrong, words", [("optimizer.lr=fast", "optimizer.lr"), ("dataset.data_path=[/nowhere/corpus]", "/nowhere/corpus"),
                                          ("dataset.data_path=[{here}/other]", "rank 1 reads other data than rank 0"),
                                          ("optimizer.lr=2e-3", "rank 1: its configuration is not rank 0's: optimizer.lr = 0.002, on rank 0 optimizer.lr = 0.001"),
                                          ("model.tensor_model_parallel_size=1", "model.tensor_model_parallel_size = 1, on rank 0")])
def test_what_is_wrong_on_one_rank_is_said_once(training, tmp_path, wrong, words):
    write_corpus(tmp_path / "other", documents=12, shortest=40, longest=60, seed=8)
    ends = start("PyTorchJob", [training.arguments(), training.arguments(wrong.format(here=tmp_path))])
    assert [status for _, status in ends] == [1, 1], ends
    said = [err for (_, err), _ in ends]
    assert said[0].count("error:") == 1 and words in said[0] and "error:" not in said[1], said


def test_ranks_take_the_checkpoint_that_rank_0_finds(training, tmp_path, tiny):
    """Each rank has a folder of its own, as where a file system shows what is written late, or is none that ranks share."""
    settings = ["train.train_iters=3", "checkpoint.save_interval=1"]
    whole, _ = training.run("--nproc-per-node", 2, *settings, "checkpoint.save=run", name="whole", cwd=tmp_path)
    training.run("--nproc-per-node", 2, *settings, "optimizer.lr=2e-3", "checkpoint.save=other", "train.exit_interval=2", cwd=tmp_path)
    for rank in "01":
        shutil.copytree(tmp_path / "run", tmp_path / rank / "run")
        (tmp_path / rank / "run/latest_checkpointed_iteration.txt").write_text("21"[int(rank)])
    folders, here = [tmp_path / "0", tmp_path / "1"], tmp_path / "1/run/iter_0000002"

    def resume(*more):
        log = tmp_path / "resumed.jsonl"
        ends = start("PyTorchJob", [training.arguments(*settings, *more, log=log)] * 2, folders)
        return ends, [err for (_, err), _ in ends]
    ends, said = resume("checkpoint.load=run")
    assert [status for _, status in ends] == [0, 0], said
    assert losses(tmp_path / "resumed.jsonl") == [step["lm_loss"] for step in whole[2:]]
    shutil.rmtree(here)
    refusals = [(resume("checkpoint.load=run"), "rank 1: checkpoint.load: run/iter_0000002 is there for rank 0 and not for this rank")]
    shutil.copytree(tmp_path / "other/iter_0000002", here)
    refusals.append((resume("checkpoint.load=run"), "rank 1: what it starts from is not rank 0's: iter_0000002 with content "))
    for rank, folder in enumerate([tiny("qwen3")[0], tiny("qwen3", seed=77)[0]]):
        (folders[rank] / "model").symlink_to(folder)
    refusals.append((resume("checkpoint.pretrained_checkpoint=model"), "rank 1: what it starts from is not rank 0's: weights with content "))
    for (ends, said), words in refusals:
        assert [status for _, status in ends] == [1, 1], ends
        assert said[0].count("error:") == 1 and words in said[0] and "error:" not in said[1], said


@pytest.mark.parametrize("command, wrong, words", [
    ("generate", {"--prompt": "another\nline", "--temperature": 0.7}, ['--prompt = "another\\nline", on rank 0 --prompt = "a prompt"',
                                                                      '--temperature = "0.7", on rank 0 --temperature not given']),
    ("generate", {"--hf-model-path": "{copy}", "--tp": 1}, ["/copy\", on rank 0 --hf-model-path = ", '--tp = "1", on rank 0 --tp = "2"']),
    ("generate", {"--hf-model-path": "model"}, ["what it reads is not rank 0's: weights with content "]),
    ("generate", {"--prompt-file": "here.txt"}, ["what it read is not rank 0's: --prompt-file"]),
    ("chat", {"--system": "be brief"}, ['its flags are not rank 0\'s: --system = "be brief", on rank 0 --system not given'])])
def test_ranks_that_would_say_something_else(tiny, tmp_path, command, wrong, words):
    """Each rank has a command line of its own. --threads and --device may differ."""
    folder, _ = tiny("qwen3")
    shutil.copytree(folder, tmp_path / "copy")
    for rank in "01":
        (tmp_path / rank).mkdir()
        (tmp_path / rank / "here.txt").write_text(f"prompt {rank}\n")
        (tmp_path / rank / "model").symlink_to(tiny("qwen3", seed=77)[0] if rank == "1" else folder)
    flags = {"--hf-model-path": folder, "--tp": 2, "--threads": 1} | ({"--prompt": "a prompt"} if command == "generate" else {})
    flags |= {flag: value for flag, value in wrong.items() if value in ("here.txt", "model")}
    other = flags | {flag: str(value).format(copy=tmp_path / "copy") for flag, value in wrong.items()} | {"--threads": 2}
    ends = start("PyTorchJob", [[command, *(str(word) for pair in given.items() for word in pair)] for given in (flags, other)], [tmp_path / "0", tmp_path / "1"])
    assert [status for _, status in ends] == [1, 1], ends
    said = [err for (_, err), _ in ends]
    assert said[0].count("error:") == 1 and "rank 1: " in said[0] and all(w in said[0] for w in words) and "error:" not in said[1], said


@pytest.mark.parametrize("script", sorted(p.name for p in (ROOT / "examples/slurm").glob("*.sbatch")))
def test_example_scripts_say_what_a_run_understands(tmp_path, script):
    """Run with stand-ins for SLURM's commands and torchrun, whose ranks only resolve the configuration."""
    stand_ins = {"srun": '[[ $SRUN_CPUS_PER_TASK == 12 ]] || exit 9; while [[ $1 == --* ]]; do shift; done; exec "$@"', "scontrol": "echo node1", "ponte": f'exec {BIN}/ponte "$@" --dry-run',
                 "torchrun": 'until [[ $1 == */ponte ]]; do shift; done; exec "$@"'}
    for name, body in stand_ins.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    shell = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path), "SLURM_JOB_ID": "12345", "SLURM_JOB_NODELIST": "node[1-4]", "SLURM_NNODES": "4",
             "SLURM_CPUS_PER_TASK": "12", "SLURM_PROCID": "0", "SLURM_NTASKS": "32"}
    done = subprocess.run(["bash", ROOT / "examples/slurm" / script], capture_output=True, text=True, env=shell)
    assert done.returncode == 0, done.stderr
    assert "async_save" in done.stdout and "lacks" not in done.stderr, done.stderr
