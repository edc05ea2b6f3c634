"""Conversion against checkpoints Megatron Bridge wrote: both directions, both dialects, every sharding, bit by bit; torch.distributed.checkpoint reads ours."""
import filecmp
import hashlib
import io
import json
import pathlib

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors import safe_open
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

pytestmark = pytest.mark.fast

DENSE = ["qwen2", "qwen3", "qwen3_untied", "qwen3_v515", "qwen3_tp2pp2", "mcore016/qwen2", "mcore016/qwen3"]
SPARSE = ["qwen3_moe", "mcore016/qwen3_moe"]
TRAINED = ["trained/qwen3_opt_fully_reshardable", "trained/qwen3_moe_opt_ep2_fully_reshardable"]


def hf_tensors(folder):
    out = {}
    for file in sorted(pathlib.Path(folder).glob("*.safetensors")):
        with safe_open(file, "pt") as f:
            out.update({name: f.get_tensor(name) for name in f.keys()})
    return out


def bits(tensor):
    return tensor.contiguous().view(torch.uint8) if tensor.ndim else tensor.reshape(1).view(torch.uint8)


def assert_same(left, right):
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype == right[name].dtype and left[name].shape == right[name].shape, name
        assert torch.equal(bits(left[name]), bits(right[name])), name


def iteration(root):
    return next(pathlib.Path(root).glob("iter_*"))


def dcp_tensors(root):
    """Every weight as torch.distributed.checkpoint reads it."""
    reader = dcp.FileSystemReader(iteration(root))
    state = {name: torch.empty(entry.size, dtype=entry.properties.dtype) for name, entry in reader.read_metadata().state_dict_metadata.items()
             if isinstance(entry, TensorStorageMetadata) and not name.startswith(("optimizer.", "chained_"))}
    dcp.load(state, storage_reader=reader)
    return state


def object_keys(root):
    metadata = dcp.FileSystemReader(iteration(root)).read_metadata()
    return {name for name, entry in metadata.state_dict_metadata.items() if not isinstance(entry, TensorStorageMetadata)}


@pytest.mark.parametrize("name", DENSE + SPARSE + TRAINED)
def test_export_equals_bridge(ponte, golden, tmp_path, name):
    ponte("export", "--megatron-path", golden / name / "mcore", "--hf-path", tmp_path / "hf")
    assert_same(hf_tensors(tmp_path / "hf"), hf_tensors(golden / name / "hf"))


@pytest.mark.parametrize("name", DENSE + SPARSE)
def test_import_equals_bridge(ponte, golden, tmp_path, name):
    ponte("import", "--hf-model", golden / name / "hf", "--megatron-path", tmp_path / "mcore")
    assert_same(dcp_tensors(tmp_path / "mcore"), dcp_tensors(golden / name / "mcore"))
    assert object_keys(tmp_path / "mcore") == object_keys(golden / name / "mcore") - {"common_state/shard_0_1"}


@pytest.mark.parametrize("name", [n for n in DENSE + SPARSE if not n.startswith("mcore016") and "tp2" not in n])
def test_import_has_the_keys_and_chunks_bridge_writes(ponte, golden, tmp_path, name):
    ponte("import", "--hf-model", golden / name / "hf", "--megatron-path", tmp_path / "mcore")
    found = []
    for key, entry in dcp.FileSystemReader(iteration(tmp_path / "mcore")).read_metadata().state_dict_metadata.items():
        if isinstance(entry, TensorStorageMetadata):
            found.append((key, "tensor", str(entry.properties.dtype), str(tuple(entry.size)), f"n={len(entry.chunks)}"))
        else:
            found.append((key, "bytes"))
    wanted = []
    for line in (golden / name / "keys.txt").read_text().splitlines():
        key, kind, *rest = line.split("\t")
        if key != "common_state/shard_0_1":
            wanted.append((key, kind) if kind == "bytes" else (key, kind, rest[0], rest[1], "n=" + rest[2].split("n=")[1].split()[0]))
    assert sorted(found) == sorted(wanted)


@pytest.mark.parametrize("name", DENSE + SPARSE)
def test_round_trip_keeps_every_file(ponte, golden, tmp_path, name):
    ponte("import", "--hf-model", golden / name / "hf", "--megatron-path", tmp_path / "mcore")
    ponte("export", "--megatron-path", tmp_path / "mcore", "--hf-path", tmp_path / "hf")
    names = sorted(p.name for p in (golden / name / "hf").iterdir())
    same, different, missing = filecmp.cmpfiles(golden / name / "hf", tmp_path / "hf", names, shallow=False)
    assert sorted(same) == names, f"different {different}, missing {missing}"
    assert {p.name for p in (tmp_path / "hf").iterdir()} - set(names) == {"ponte_manifest.json"}


@pytest.mark.parametrize("name", DENSE + SPARSE + TRAINED)
def test_verify_says_equal(ponte, golden, name):
    result = ponte("verify", "--hf-model", golden / name / "hf", "--megatron-path", golden / name / "mcore")
    assert "equal, bit for bit" in result.out


def test_megatron_fsdp(ponte, golden, tmp_path):
    """Per-layer keys, gate and up apart, uneven cuts, fp32 main weights of a bf16 model."""
    ponte("verify", "--hf-model", golden / "qwen3_fsdp/hf", "--megatron-path", golden / "qwen3_fsdp/fsdp")
    ponte("export", "--megatron-path", golden / "qwen3_fsdp/fsdp", "--hf-path", tmp_path / "wide")
    assert_same(hf_tensors(tmp_path / "wide"), {k: v.float() for k, v in hf_tensors(golden / "qwen3_fsdp/hf").items()})
    assert json.loads((tmp_path / "wide/config.json").read_text())["torch_dtype"] == "float32"
    ponte("export", "--megatron-path", golden / "qwen3_fsdp/fsdp", "--hf-path", tmp_path / "narrow", "--torch-dtype", "bf16")
    assert_same(hf_tensors(tmp_path / "narrow"), hf_tensors(golden / "qwen3_fsdp/hf"))


def test_export_with_hf_model_takes_its_configuration(ponte, golden, tmp_path):
    source = golden / "qwen3_v515"
    ponte("export", "--megatron-path", source / "mcore/iter_0000000", "--hf-path", tmp_path / "hf", "--hf-model", source / "hf")
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "hf" / name).read_bytes() == (source / "hf" / name).read_bytes(), name


def test_export_of_a_foreign_checkpoint_makes_a_configuration(ponte, golden, tmp_path):
    """Nothing of HF's but the tokenizer is in it: sizes come from run_config.yaml, token ids from the tokenizer."""
    ponte("export", "--megatron-path", golden / "qwen3_tp2pp2/mcore", "--hf-path", tmp_path / "hf")
    ours, theirs = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "hf", golden / "qwen3_tp2pp2/hf"))
    spelling = {"torch_dtype": "dtype"}
    for key, value in ours.items():
        if key in theirs or key in spelling:
            assert value == theirs[spelling.get(key, key)], key
    assert (ours["bos_token_id"], ours["eos_token_id"], ours["pad_token_id"]) == (1, 2, 0)


def test_files_around_the_weights(ponte, golden, tmp_path):
    ponte("import", "--hf-model", golden / "qwen3/hf", "--megatron-path", tmp_path / "m")
    folder = tmp_path / "m/iter_0000000"
    assert (tmp_path / "m/latest_checkpointed_iteration.txt").read_text().strip() == "0"
    for state in (tmp_path / "m/latest_train_state.pt", folder / "train_state.pt"):
        ours = torch.load(state, weights_only=True)
        theirs = torch.load(golden / "qwen3/mcore/iter_0000000/train_state.pt", weights_only=True)
        assert {k: (v.dtype, v.item()) for k, v in ours.items()} == {k: (v.dtype, v.item()) for k, v in theirs.items()}
    assert json.loads((folder / "metadata.json").read_text())["sharded_backend"] == "torch_dist"
    common = torch.load(folder / "common.pt", weights_only=False)
    theirs = torch.load(golden / "mcore016/qwen3/mcore/iter_0000000/common.pt", weights_only=False)
    assert {k: v for k, v in common.items() if k != "args"} == theirs
    config = json.loads((golden / "qwen3/hf/config.json").read_text())
    assert (common["args"].num_layers, common["args"].hidden_size, common["args"].swiglu) == (config["num_hidden_layers"], config["hidden_size"], True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (folder / "tokenizer" / name).read_bytes() == (golden / "qwen3/hf" / name).read_bytes()


def test_extra_state_objects_are_what_transformer_engine_stores(ponte, golden, tmp_path):
    ponte("import", "--hf-model", golden / "qwen3/hf", "--megatron-path", tmp_path / "m")

    def payload(root):
        folder = iteration(root)
        metadata = dcp.FileSystemReader(folder).read_metadata()
        info = next(i for k, i in metadata.storage_data.items() if k.fqn == "decoder.final_layernorm._extra_state/shard_0_1")
        blob = (folder / info.relative_path).read_bytes()[info.offset:info.offset + info.length]
        return torch.load(io.BytesIO(blob), weights_only=True)

    ours, theirs = payload(tmp_path / "m"), payload(golden / "qwen3/mcore")
    assert type(ours) is type(theirs) and len(ours) == len(theirs) == 1
    assert ours[0].dtype == theirs[0].dtype and ours[0].shape == theirs[0].shape


def test_map_accounts_for_every_element(ponte, golden):
    """The boxes `inspect --map --json` prints rebuild Megatron's parameters from HF's tensors."""
    source = golden / "qwen3_untied"
    table = json.loads(ponte("inspect", source / "hf", "--map", "--json").out)
    hf, native = hf_tensors(source / "hf"), dcp_tensors(source / "mcore")
    for parameter in table["parameters"]:
        for segment in parameter["segments"]:
            stored = native[segment["key"]][tuple(segment["index"])].narrow(0, segment["row"], segment["shape"][0])
            rebuilt = torch.full(segment["shape"], float("nan"), dtype=stored.dtype)
            for box in segment["boxes"]:
                extents = [a["extent"] for a in box["axes"]]
                part = hf[box["hf"]].flatten().as_strided(extents, [a["hf_stride"] for a in box["axes"]], box["hf_origin"])
                strides, origin = rebuilt.stride(), sum(o * s for o, s in zip(box["origin"], rebuilt.stride()))
                rebuilt.flatten().as_strided(extents, [a["step"] * strides[a["dim"]] for a in box["axes"]], origin).copy_(part)
            assert torch.equal(rebuilt, stored), parameter["name"]


def test_inspect_lists_what_is_there(ponte, golden):
    for path, kind in (("qwen3/hf", "huggingface"), ("qwen3/hf/model.safetensors", "safetensors"), ("qwen3/mcore", "torch_dist"),
                       ("qwen3_fsdp/fsdp", "fsdp_dtensor")):
        report = json.loads(ponte("inspect", golden / path, "--json").out)
        assert report["format"] == kind and len(report["tensors"]) > 5
    listed = {t["name"]: (t["shape"], t["chunks"]) for t in json.loads(ponte("inspect", golden / "qwen3_tp2pp2/mcore", "--json").out)["tensors"]}
    assert listed["decoder.layers.mlp.linear_fc1.weight"] == ([4, 256, 64], 16)
    assert "decoder.layers.mlp.linear_fc1.weight" in ponte("inspect", golden / "qwen3_tp2pp2/mcore").out


def digest(folder):
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_output_does_not_depend_on_threads(ponte, golden, tmp_path):
    for threads in (1, 4):
        ponte("import", "--hf-model", golden / "qwen3/hf", "--megatron-path", tmp_path / f"m{threads}", "--threads", threads)
        (tmp_path / f"m{threads}/iter_0000000/run_config.yaml").unlink()  # names its own path
    assert digest(tmp_path / "m1") == digest(tmp_path / "m4")
