"""Checkpoint folders and torch.save archives, against torch.distributed.checkpoint, torch.load and megatron-core."""
import io
import os
import pickle
import random
import subprocess
import zipfile

import numpy
import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file

from conftest import BIN, CHECKPOINTS

FOLDERS = sorted(str(p.parent.relative_to(CHECKPOINTS)) for p in CHECKPOINTS.glob("**/.metadata"))
MEGATRON = [f for f in FOLDERS if "/mcore/" in f]


def tool(*arguments, code=0):
    process = subprocess.run([str(BIN / "ponte-format-tool"), *map(str, arguments)], capture_output=True, text=True, timeout=120)
    assert process.returncode == code, process.stderr
    return process.stdout if code == 0 else process.stderr


def dcp_tensors(folder):
    """Every tensor of a DCP folder as torch itself reads it."""
    metadata = dcp.FileSystemReader(folder).read_metadata()
    state = {name: torch.empty(entry.size, dtype=entry.properties.dtype) for name, entry in metadata.state_dict_metadata.items()
             if hasattr(entry, "chunks")}
    dcp.load(state, storage_reader=dcp.FileSystemReader(folder), no_dist=True)
    return state


def dcp_objects(folder):
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    out = {}
    for index, info in metadata.storage_data.items():
        if not hasattr(metadata.state_dict_metadata[index.fqn], "chunks"):
            data = (folder / info.relative_path).read_bytes()[info.offset:info.offset + info.length]
            out[index.fqn] = torch.load(io.BytesIO(data), weights_only=False)
    return out


def same(a, b):
    if isinstance(a, torch.Tensor):
        return (isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape
                and a.contiguous().reshape(-1).view(torch.uint8).equal(b.contiguous().reshape(-1).view(torch.uint8)))
    if isinstance(a, numpy.ndarray):
        return isinstance(b, numpy.ndarray) and a.dtype == b.dtype and numpy.array_equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def assert_same_tensors(ours, theirs):
    assert set(ours) == set(theirs)
    assert [name for name in ours if not same(ours[name], theirs[name])] == []


@pytest.mark.fast
@pytest.mark.parametrize("folder", FOLDERS)
def test_reads_what_torch_reads(folder, tmp_path):
    tool("dist-to-safetensors", CHECKPOINTS / folder, tmp_path / "all.safetensors")
    assert_same_tensors(load_file(tmp_path / "all.safetensors"), dcp_tensors(CHECKPOINTS / folder))


@pytest.mark.fast
@pytest.mark.parametrize("folder", FOLDERS)
def test_torch_reads_what_is_written(folder, tmp_path):
    tool("dist-copy", CHECKPOINTS / folder, tmp_path / "copy")
    assert_same_tensors(dcp_tensors(tmp_path / "copy"), dcp_tensors(CHECKPOINTS / folder))
    ours, theirs = dcp_objects(tmp_path / "copy"), dcp_objects(CHECKPOINTS / folder)
    assert set(ours) == set(theirs)
    assert [name for name in ours if not same(ours[name], theirs[name])] == []
    common = CHECKPOINTS / folder / "common.pt"
    if common.exists():
        assert same(torch.load(tmp_path / "copy" / "common.pt", weights_only=True), torch.load(common, weights_only=True))


def test_every_item_is_a_sound_zip(tmp_path):
    source = CHECKPOINTS / "qwen3_tp2pp2/mcore/iter_0000000"
    tool("dist-copy", source, tmp_path / "copy")
    metadata = pickle.loads((tmp_path / "copy/.metadata").read_bytes())
    for index, info in metadata.storage_data.items():
        data = (tmp_path / "copy" / info.relative_path).read_bytes()[info.offset:info.offset + info.length]
        archive = zipfile.ZipFile(io.BytesIO(data))
        assert archive.testzip() is None, index
        for record in archive.infolist():
            header = data[record.header_offset:]
            begin = info.offset + record.header_offset + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
            assert begin % 64 == 0, (index, record.filename)


@pytest.mark.parametrize("folder", MEGATRON)
def test_megatron_core_loads_what_is_written(folder, tmp_path):
    dist_checkpointing = pytest.importorskip("megatron.core.dist_checkpointing")
    from megatron.core.dist_checkpointing.mapping import ShardedObject, ShardedTensor
    tool("dist-copy", CHECKPOINTS / folder, tmp_path / "copy")
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    wanted = dcp_tensors(CHECKPOINTS / folder)
    objects = dcp_objects(CHECKPOINTS / folder)
    sharded = {name: ShardedTensor.from_rank_offsets(name, torch.empty_like(tensor), replica_id=0) for name, tensor in wanted.items()}
    for name in objects:
        key, shard = name.rsplit("/shard_", 1)
        offset, shape = (tuple(map(int, part.split("."))) for part in shard.split("_"))
        if key != "common_state":
            sharded[name] = ShardedObject(key, None, shape, offset, replica_id=0)
    loaded = dist_checkpointing.load(dict(sharded), str(tmp_path / "copy"))
    assert_same_tensors({name: loaded[name] for name in wanted}, wanted)
    for name in objects:
        if not name.startswith("common_state/"):
            assert same(loaded[name], objects[name][0] if isinstance(objects[name], list) and len(objects[name]) == 1 else objects[name]), name
    assert loaded["checkpoint_version"] == 3.0


VALUES = {
    "train_state": {"step": torch.tensor(7), "consumed_train_samples": torch.tensor(2**40), "floating_point_operations_so_far": torch.tensor(1.5e17),
                    "double": torch.tensor(0.1, dtype=torch.float64), "do_train": torch.tensor(True)},
    "nested": {"a": [1, -1, 255, 256, 65535, 65536, 2**31, -2**31, 2**63 - 1, -2**63, 2**64, -2**90], "b": (), "c": ((1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
               "d": [None, True, False, 1.0, -0.0, 1e300, float("inf")], "e": {"": "", "schlüssel": "日本 \U0001f600"}, 3: [[], {}], (1, "x"): "tuple key"},
    "bytes": {"b": bytes(range(256)), "empty": b"", "ascii": b"abc"},
    "views": (lambda t: {"whole": t, "row": t[1], "column": t[:, 2], "transposed": t.T, "again": t})(torch.arange(24.).reshape(4, 6)),
    "dtypes": {str(d): torch.arange(6).to(d).reshape(2, 3) for d in (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32,
                                                                    torch.int16, torch.int8, torch.uint8, torch.bool, torch.complex64)[:-1]},
    "empty": {"none": torch.empty(0), "matrix": torch.empty(3, 0, dtype=torch.bfloat16), "list": [torch.empty(0, dtype=torch.uint8)]},
    "many texts": [f"text {i % 400}" for i in range(1000)],
}


@pytest.mark.fast
@pytest.mark.parametrize("name", VALUES)
def test_archives_keep_values(name, tmp_path):
    torch.save(VALUES[name], tmp_path / "in.pt")
    tool("archive-copy", tmp_path / "in.pt", tmp_path / "out.pt")
    assert same(torch.load(tmp_path / "out.pt", weights_only=True), VALUES[name])
    assert same(torch.load(tmp_path / "out.pt", weights_only=True, mmap=True), VALUES[name])
    assert zipfile.ZipFile(tmp_path / "out.pt").testzip() is None


def test_views_share_their_storage_again(tmp_path):
    torch.save(VALUES["views"], tmp_path / "in.pt")
    tool("archive-copy", tmp_path / "in.pt", tmp_path / "out.pt")
    loaded = torch.load(tmp_path / "out.pt")
    assert len({t.untyped_storage().data_ptr() for t in loaded.values()}) == 1


def test_random_generator_states(tmp_path):
    state = {"python": random.getstate(), "numpy": numpy.random.RandomState(3).get_state(), "torch": torch.get_rng_state(), "set": {1, 2}}
    torch.save(state, tmp_path / "in.pt")
    tool("archive-copy", tmp_path / "in.pt", tmp_path / "out.pt")
    loaded = torch.load(tmp_path / "out.pt", weights_only=False)
    assert same(loaded, state)
    random.setstate(loaded["python"])


def test_megatron_lm_arguments(tmp_path):
    import argparse
    import pathlib
    args = argparse.Namespace(hidden_size=64, params_dtype=torch.bfloat16, load=pathlib.PurePosixPath("x"), betas=(0.9, 0.95), none=None)
    torch.save({"args": args}, tmp_path / "in.pt")
    tool("archive-copy", tmp_path / "in.pt", tmp_path / "out.pt")
    assert torch.load(tmp_path / "out.pt", weights_only=False)["args"] == args


class Evil:
    def __init__(self, function, arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.fast
@pytest.mark.parametrize("function,arguments,named", [(os.system, ("true",), "system"), (eval, ("1",), "builtins.eval"), (getattr, (1, "real"), "builtins.getattr"),
                                                     (subprocess.Popen, (["true"],), "Popen"), (io.BytesIO, (b"",), "_io.BytesIO")])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_the_world_is_closed(function, arguments, named, protocol, tmp_path):
    torch.save({"a": Evil(function, arguments)}, tmp_path / "in.pt", pickle_protocol=protocol)
    assert named in tool("archive-copy", tmp_path / "in.pt", tmp_path / "out.pt", code=1)
    assert not (tmp_path / "out.pt").exists()


def test_chunks_saved_with_other_strides(tmp_path):
    """torch.save keeps the strides of a dense transposed tensor; DCP then stores the chunk in that order."""
    state = {"plain": torch.randn(5, 7), "transposed": torch.randn(7, 5).T, "permuted": torch.randn(2, 3, 4).permute(2, 0, 1), "scalar": torch.tensor(3.5),
             "empty": torch.empty(0, 4), "slice": torch.randn(9, 9)[2:5, 1:4]}
    dcp.save(dict(state), storage_writer=dcp.FileSystemWriter(tmp_path / "in", single_file_per_rank=False), no_dist=True)
    tool("dist-to-safetensors", tmp_path / "in", tmp_path / "all.safetensors")
    assert_same_tensors(load_file(tmp_path / "all.safetensors"), state)
