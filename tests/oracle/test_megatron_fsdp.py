"""Folders that Ponte's training writes as fsdp_dtensor, on Megatron-FSDP's side: they hold what its own folders hold, and (optional, with PONTE_BRIDGE_PYTHON as in
test_bridge_oracle.py, there a checkout of Bridge whose core has Megatron-FSDP) its loader takes every value."""
import os
import pathlib
import subprocess

import pytest
import torch
from torch.distributed.checkpoint import FileSystemReader

from training import ONE_THREAD, Training, load_checkpoint, write_corpus

BRIDGE = os.environ.get("PONTE_BRIDGE_PYTHON")
SHARDED = ["--nproc-per-node", 2, "ddp.use_megatron_fsdp=true", "ddp.data_parallel_sharding_strategy=optim_grads_params", "checkpoint.ckpt_format=fsdp_dtensor"]


def trained(ponte, folder, model, *more):
    corpus = write_corpus(folder / "corpus", documents=12, shortest=40, longest=60)
    Training(ponte, folder, "--hf-model", model, f"dataset.data_path=[{corpus}]", "dataset.split='100,0,0'", "train.global_batch_size=4", "train.micro_batch_size=1",
             "model.seq_length=16", "optimizer.lr=1e-3", "validation.eval_interval=0", f"checkpoint.save={folder / 'run'}", *SHARDED, *more).run()
    return sorted((folder / "run").glob("iter_*"))[-1]


def listed(folder):
    """Key to what is stored under it: size and type of a tensor, or None for an object."""
    entries = FileSystemReader(str(folder)).read_metadata().state_dict_metadata
    return {key: (tuple(entry.size), entry.properties.dtype) if hasattr(entry, "size") else None for key, entry in entries.items()}


def test_a_run_holds_what_megatrons_holds(ponte, golden, tmp_path):
    """Every key of a folder that Megatron-FSDP's training wrote, with its size and type; the state of random generators is each program's own."""
    source = golden / "trained/qwen3_fsdp_opt"
    last = trained(ponte, tmp_path, source / "hf", "mixed_precision=bf16_mixed", "train.train_iters=2")
    theirs, ours = listed(next((source / "fsdp").glob("iter_*"))), listed(last)
    random = lambda key: key.startswith("rng_state.")  # noqa: E731
    missing = {key: entry for key, entry in theirs.items() if not random(key) and ours.get(key, "nothing") != entry}
    assert not missing and any(map(random, ours))
    assert {key.rsplit(".", 1)[1] for key in ours.keys() - theirs.keys() if not random(key)} <= {"step"}


def whole(ranks):
    """Kind and name to the tensor that the ranks hold pieces of."""
    tensors, covered = {}, {}
    for rank in ranks:
        for (kind, name), (shape, at, piece) in rank["pieces"].items():
            key = kind, name.replace("module.", "")
            place = tuple(slice(begin, begin + size) for begin, size in zip(at, piece.shape))
            tensors.setdefault(key, torch.zeros(shape, dtype=piece.dtype))[place] = piece
            covered.setdefault(key, torch.zeros(shape, dtype=torch.int8))[place] += 1
    assert all((times == 1).all() for times in covered.values())
    return tensors


def stored(tensors, kind, name):
    weight = f"model.module.{name}" if kind == "param" else f"optimizer.state.module.module.module.{name}"
    end = "" if kind == "param" else f".{kind}"
    parts = [weight + part + end for part in ("", "_w", "_v", ".query", ".key", ".value", ".z", ".beta", ".alpha") if weight + part + end in tensors]
    return parts, torch.cat([tensors[part] for part in parts])


if BRIDGE:

    @pytest.mark.parametrize("kind, experts", [("qwen3", 1), ("qwen3_moe", 2), ("qwen3_next", 1)])
    def test_megatron_fsdp_goes_on_from_it(ponte, tiny, tmp_path, kind, experts):
        folder, _ = tiny(kind)
        last = trained(ponte, tmp_path, folder, "mixed_precision=bf16_mixed", "train.train_iters=3")
        script = pathlib.Path(__file__).with_name("megatron_fsdp_load.py")
        command = [BRIDGE, "-m", "torch.distributed.run", "--nproc-per-node", "2", script, folder, last.parent, tmp_path / "held", str(experts)]
        process = subprocess.run(command, capture_output=True, text=True, timeout=240, env={
            **{k: v for k, v in os.environ.items() if k != "CUDA_DEVICE_MAX_CONNECTIONS"}, **ONE_THREAD, "TRANSFORMERS_OFFLINE": "1"})
        assert process.returncode == 0, process.stderr[-4000:]
        ranks = [torch.load(f"{tmp_path / 'held'}.{rank}.pt", weights_only=False) for rank in range(2)]
        tensors, met = load_checkpoint(last), set()
        for (what, name), value in whole(ranks).items():
            parts, wanted = stored(tensors, what, name)
            assert value.dtype == wanted.dtype and torch.equal(value, wanted), (what, name)
            met.update(parts)
        assert {key for key in tensors.keys() - met if not key.startswith("rng_state") and not key.endswith(".step")} == set()
        for rank in ranks:
            assert (rank["steps"], rank["iteration"], rank["samples"]) == ({3.0}, 3, 12)
            assert (rank["scheduler"]["max_lr"], rank["scheduler"]["num_steps"], rank["scheduler"]["start_wd"]) == (1e-3, 12, 0.01)
