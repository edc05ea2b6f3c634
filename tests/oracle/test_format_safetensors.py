"""safetensors and sharded Hugging Face folders, against the safetensors and transformers libraries."""
import json
import subprocess

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from conftest import BIN, CHECKPOINTS


def tool(*arguments, code=0):
    process = subprocess.run([str(BIN / "ponte-format-tool"), *map(str, arguments)], capture_output=True, text=True, timeout=120)
    assert process.returncode == code, process.stderr
    return process.stderr


@pytest.mark.fast
@pytest.mark.parametrize("name", sorted(str(p.parent.relative_to(CHECKPOINTS)) for p in CHECKPOINTS.glob("**/hf/model.safetensors")))
def test_shards_and_index(name, tmp_path):
    wanted = load_file(CHECKPOINTS / name / "model.safetensors")
    tool("hf-copy", CHECKPOINTS / name, tmp_path / "out")
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_parameters": sum(t.numel() for t in wanted.values()), "total_size": sum(t.nbytes for t in wanted.values())}
    assert set(index["weight_map"]) == set(wanted)
    shards = {shard: load_file(tmp_path / "out" / shard) for shard in set(index["weight_map"].values())}
    assert sum(map(len, shards.values())) == len(wanted) and len(shards) >= 3
    for key, shard in index["weight_map"].items():
        assert shards[shard][key].dtype == wanted[key].dtype and shards[shard][key].equal(wanted[key])
    for shard in shards:
        assert safe_open(tmp_path / "out" / shard, "pt").metadata() == {"format": "pt"}
    tool("hf-copy", tmp_path / "out", tmp_path / "again")  # our own index read back
    assert json.loads((tmp_path / "again/model.safetensors.index.json").read_text())["weight_map"].keys() == wanted.keys()


TYPES = [torch.bool, torch.uint8, torch.int8, torch.float8_e5m2, torch.float8_e4m3fn, torch.int16, torch.uint16, torch.float16, torch.bfloat16, torch.int32,
         torch.uint32, torch.float32, torch.float64, torch.int64, torch.uint64]


@pytest.mark.fast
def test_files_equal_the_librarys_byte_for_byte(tmp_path):
    """Same layout, order, header and padding, for every dtype, odd sizes and awkward names."""
    tensors = {}
    for i, dtype in enumerate(TYPES):
        tensors[f"t{i}.weight"] = torch.arange(3 + i).to(dtype).reshape(1, -1)
        tensors[f'é "{i}"\\'] = torch.zeros(i % 3, dtype=dtype)
    (tmp_path / "in").mkdir()
    save_file(tensors, tmp_path / "in/model.safetensors", metadata={"format": "pt"})
    tool("hf-copy", tmp_path / "in", tmp_path / "cut")
    # One shard each time: gather the pieces again through the library and compare whole files.
    merged = {}
    for shard in (tmp_path / "cut").glob("*.safetensors"):
        merged.update(load_file(shard))
        save_file(load_file(shard), tmp_path / "library.safetensors", metadata={"format": "pt"})
        assert shard.read_bytes() == (tmp_path / "library.safetensors").read_bytes()
    assert set(merged) == set(tensors)
