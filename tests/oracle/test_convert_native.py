"""`ponte convert`: Megatron's formats into each other, weights and optimizer state to the bit, as torch.distributed.checkpoint and Megatron read them."""
import itertools
import json
import shutil
import subprocess

import pytest
import torch
from torch.distributed.checkpoint import FileSystemReader

from conftest import BIN, interrupted
from test_convert_golden import assert_same, hf_tensors, iteration, object_keys
from test_foreign_optimizer import values_that_arrived
from training import load_checkpoint

pytestmark = pytest.mark.fast


def objects(root):
    """Every object of a checkpoint by its key, unpickled."""
    folder, out = iteration(root), {}
    metadata = FileSystemReader(str(folder)).read_metadata()
    for index, place in metadata.storage_data.items():
        if type(metadata.state_dict_metadata[index.fqn]).__name__ == "BytesStorageMetadata":
            with open(folder / place.relative_path, "rb") as file:
                file.seek(place.offset)
                import io
                out[index.fqn] = torch.load(io.BytesIO(file.read(place.length)), weights_only=False)
    return out


def convert(ponte, source, target, form, *more, **options):
    return ponte("convert", "--megatron-path", source, "--save", target, "--ckpt-format", form, *more, **options)


def test_weights_go_there_and_back(ponte, golden, tmp_path):
    source = golden / "qwen3_fsdp/fsdp"
    convert(ponte, source, tmp_path / "dist", "torch_dist")
    ponte("verify", "--megatron-path", tmp_path / "dist", "--hf-model", golden / "qwen3_fsdp/hf")
    ponte("export", "--megatron-path", tmp_path / "dist", "--hf-path", tmp_path / "hf", "--torch-dtype", "bf16")
    assert_same(hf_tensors(tmp_path / "hf"), hf_tensors(golden / "qwen3_fsdp/hf"))
    convert(ponte, tmp_path / "dist", tmp_path / "back", "fsdp_dtensor")
    assert_same(load_checkpoint(iteration(tmp_path / "back")), load_checkpoint(iteration(source)))
    assert objects(tmp_path / "back") == objects(source)
    assert "fsdp_dtensor" in (iteration(tmp_path / "back") / "run_config.yaml").read_text()
    assert not (iteration(tmp_path / "back") / "metadata.json").exists() and not (iteration(tmp_path / "back") / "common.pt").exists()
    listed = json.loads(ponte("inspect", tmp_path / "back", "--json").out)
    assert listed["format"] == "fsdp_dtensor" and len(listed["tensors"]) == 20
    assert "content hashes: as written" in ponte("verify", "--megatron-path", tmp_path / "back").out


def test_imports_fsdp_as_it_exports(ponte, golden, tmp_path):
    ponte("import", "--hf-model", golden / "qwen3_fsdp/hf", "--megatron-path", tmp_path / "m", "--ckpt-format", "fsdp_dtensor", "--torch-dtype", "fp32")
    assert_same(load_checkpoint(iteration(tmp_path / "m")), load_checkpoint(iteration(golden / "qwen3_fsdp/fsdp")))
    ponte("export", "--megatron-path", tmp_path / "m", "--hf-path", tmp_path / "hf", "--torch-dtype", "bf16")
    assert_same(hf_tensors(tmp_path / "hf"), hf_tensors(golden / "qwen3_fsdp/hf"))


def test_optimizer_state_of_megatron_fsdp(ponte, golden, tmp_path):
    source = golden / "trained/qwen3_fsdp_opt/fsdp"
    convert(ponte, source, tmp_path / "dist", "torch_dist")
    theirs, ours = load_checkpoint(iteration(source)), load_checkpoint(iteration(tmp_path / "dist"))
    state = "optimizer.state.module.module.module."
    for layer in range(2):
        for kind in ("exp_avg", "exp_avg_sq"):
            leaf = f"decoder.layers.{layer}.mlp.linear_fc1.weight"
            halves = torch.cat([theirs[f"{state}{leaf}_{half}.{kind}"] for half in "wv"])
            assert torch.equal(ours[f"optimizer.state.{kind}.decoder.layers.mlp.linear_fc1.weight"][layer], halves)
    embedding = theirs["model.module.embedding.word_embeddings.weight"]
    assert torch.equal(ours["optimizer.state.param.embedding.word_embeddings.weight"], embedding)
    assert torch.equal(ours["embedding.word_embeddings.weight"], embedding.bfloat16()), "the run's weights are bf16"
    common = torch.load(iteration(tmp_path / "dist") / "common.pt", weights_only=False)
    groups = common["optimizer"]["optimizer"]["param_groups"]
    assert sorted((g["wd_mult"], g["step"], g["max_lr"]) for g in groups) == [(0.0, 3.0, 0.001), (1.0, 3.0, 0.001)]
    assert common["opt_param_scheduler"]["num_steps"] == 12 and common["iteration"] == 3

    convert(ponte, tmp_path / "dist", tmp_path / "back", "fsdp_dtensor")
    assert_same(load_checkpoint(iteration(tmp_path / "back")), theirs)
    found, wanted = objects(tmp_path / "back"), objects(source)
    assert {k for k in found if k not in wanted} == {k.rsplit(".", 1)[0] + ".step" for k in wanted if k.endswith(".wd_mult")}
    assert {k: v for k, v in found.items() if "rng_state" not in k and k in wanted} == {k: v for k, v in wanted.items() if "rng_state" not in k}
    ponte("export", "--megatron-path", tmp_path / "back", "--hf-path", tmp_path / "hf")
    assert_same(hf_tensors(tmp_path / "hf"), hf_tensors(golden / "trained/qwen3_fsdp_opt/hf"))


@pytest.mark.parametrize("name", ["qwen3_opt_fully_reshardable", "qwen3_opt_dp_reshardable", "qwen3_moe_opt_ep2_fully_reshardable",
                                  "qwen3_moe_opt_ep2_dp_reshardable", "qwen3_next_opt_dp_reshardable"])
def test_optimizer_state_of_torch_dist(ponte, golden, tmp_path, name):
    source = golden / "trained" / name / "mcore"
    convert(ponte, source, tmp_path / "fsdp", "fsdp_dtensor")
    convert(ponte, tmp_path / "fsdp", tmp_path / "back", "torch_dist")
    found, wanted = load_checkpoint(iteration(tmp_path / "back")), load_checkpoint(iteration(source))
    reshardable = {k: v for k, v in wanted.items() if "optimizer.distributed" not in k}
    rounded = {k: v.to(reshardable[k].dtype) for k, v in found.items() if k in reshardable}  # A_log and dt_bias, which Bridge rounds, have their fp32 values again
    assert_same(rounded, reshardable)
    assert values_that_arrived(found, source.parent) > 50
    if name == "qwen3_opt_dp_reshardable":  # the same run, saved both ways
        wanted = load_checkpoint(iteration(golden / "trained/qwen3_opt_fully_reshardable/mcore"))
        assert_same(found, wanted)
    assert object_keys(tmp_path / "back") >= object_keys(golden / "trained/qwen3_opt_fully_reshardable/mcore") - {"common_state/shard_0_1"} or "qwen3_opt" not in name
    groups = torch.load(iteration(tmp_path / "back") / "common.pt", weights_only=False)["optimizer"]["optimizer"]["param_groups"]
    assert {g["step"] for g in groups} == {3.0}


def test_hybrid_models(ponte, golden, tmp_path):
    """Gated delta nets: every part of their fused projections under its own key; multi-token prediction by its name on disk."""
    source = golden / "qwen3_next_mtp/mcore"
    convert(ponte, source, tmp_path / "fsdp", "fsdp_dtensor")
    keys = load_checkpoint(iteration(tmp_path / "fsdp")).keys()
    assert {k.rsplit(".", 1)[1] for k in keys if "layers.0.self_attention.in_proj.weight" in k} == {"query", "key", "value", "z", "beta", "alpha"}
    assert any(k.startswith("model.module.mtp.layers.0.transformer_layer.") for k in keys)
    convert(ponte, tmp_path / "fsdp", tmp_path / "back", "torch_dist")
    assert_same(load_checkpoint(iteration(tmp_path / "back")), load_checkpoint(iteration(source)))


def test_targets_are_protected(ponte, golden, tmp_path):
    source = golden / "qwen3_fsdp/fsdp"
    convert(ponte, source, tmp_path / "m", "torch_dist")
    assert "already exists" in convert(ponte, source, tmp_path / "m", "torch_dist", code=1).err
    convert(ponte, source, tmp_path / "m", "fsdp_dtensor", "--overwrite")
    assert "is the checkpoint itself" in convert(ponte, tmp_path / "m", tmp_path / "m", "torch_dist", "--overwrite", code=1).err
    assert "training run" in convert(ponte, golden / "trained/qwen3_fsdp_opt/fsdp", tmp_path / "m", "torch_dist", "--overwrite", code=1).err
    (tmp_path / "other").mkdir()
    (tmp_path / "other/mine").write_text("mine")
    assert "no Megatron checkpoint" in convert(ponte, source, tmp_path / "other", "torch_dist", "--overwrite", code=1).err
    assert "torch_dist or fsdp_dtensor wanted" in convert(ponte, source, tmp_path / "x", "zarr", code=1).err
    damaged = tmp_path / "damaged"
    shutil.copytree(source, damaged)
    data = iteration(damaged) / "__0_0.distcp"
    data.write_bytes(data.read_bytes()[:5000])
    assert "truncated" in convert(ponte, damaged, tmp_path / "x", "torch_dist", code=1).err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["damaged", "m", "other"]


def test_killed_at_any_moment(ponte, golden, tmp_path):
    command = ["convert", "--megatron-path", golden / "qwen3_fsdp/fsdp", "--save", tmp_path / "m", "--ckpt-format", "torch_dist", "--overwrite"]
    appeared = False
    for change in itertools.count(1):
        process = subprocess.run([BIN / "ponte", *map(str, command)], capture_output=True, env={**__import__("os").environ, **interrupted(change=change)})
        assert not appeared or (tmp_path / "m").exists()
        appeared = (tmp_path / "m").exists()
        if appeared and change % 4 == 0:
            ponte("verify", "--hf-model", golden / "qwen3_fsdp/hf", "--megatron-path", tmp_path / "m")
        if process.returncode == 0:
            break
    assert change > 20
    ponte("verify", "--hf-model", golden / "qwen3_fsdp/hf", "--megatron-path", tmp_path / "m")
    assert [p.name for p in tmp_path.iterdir()] == ["m"]
