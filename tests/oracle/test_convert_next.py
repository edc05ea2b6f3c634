"""Conversion of Qwen3-Next and the Qwen3.5 text models: split projections, the output norm's offset, prediction layers, and what a model may lack."""
import json
import shutil

import pytest
import torch
import torch.distributed.checkpoint as dcp
import transformers
from safetensors.torch import load_file, save_file
from test_convert_golden import assert_same, bits, dcp_tensors, hf_tensors, iteration, object_keys
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

pytestmark = pytest.mark.fast

GOLDEN = ["qwen3_next", "qwen3_next_mtp"]
FP32 = (".A_log", ".dt_bias")


@pytest.mark.parametrize("name", GOLDEN)
def test_export_equals_bridge(ponte, golden, tmp_path, name):
    """Bridge rounds A_log and dt_bias to bf16 in the checkpoint, so its own export is the golden's rounded."""
    ponte("export", "--megatron-path", golden / name / "mcore", "--hf-path", tmp_path / "hf")
    wanted = {k: v.bfloat16() if k.endswith(FP32) else v for k, v in hf_tensors(golden / name / "hf").items()}
    assert_same(hf_tensors(tmp_path / "hf"), wanted)


@pytest.mark.parametrize("name", GOLDEN)
def test_import_equals_bridge(ponte, golden, tmp_path, name):
    source = golden / name
    ponte("import", "--hf-model", source / "hf", "--megatron-path", tmp_path / "mcore")
    ours, theirs = dcp_tensors(tmp_path / "mcore"), dcp_tensors(source / "mcore")
    for key in list(ours):
        if key.endswith(FP32 + (".out_norm.weight",)) and ours[key].dtype == torch.float32:  # kept where bf16 would lose bits
            ours[key] = ours[key].bfloat16()
    assert_same(ours, theirs)
    assert object_keys(tmp_path / "mcore") == object_keys(source / "mcore") - {"common_state/shard_0_1"}


@pytest.mark.parametrize("name", GOLDEN)
def test_import_has_the_keys_and_chunks_bridge_writes(ponte, golden, tmp_path, name):
    ponte("import", "--hf-model", golden / name / "hf", "--megatron-path", tmp_path / "mcore")
    found = {}
    for key, entry in dcp.FileSystemReader(iteration(tmp_path / "mcore")).read_metadata().state_dict_metadata.items():
        found[key] = (str(tuple(entry.size)), f"n={len(entry.chunks)}") if isinstance(entry, TensorStorageMetadata) else "bytes"
    wanted = {}
    for line in (golden / name / "keys.txt").read_text().splitlines():
        key, kind, *rest = line.split("\t")
        wanted[key] = kind if kind == "bytes" else (rest[1], "n=" + rest[2].split("n=")[1].split()[0])
    del wanted["common_state/shard_0_1"]
    assert found == wanted


@pytest.mark.parametrize("name", GOLDEN)
def test_round_trip_keeps_every_file(ponte, golden, tmp_path, name):
    ponte("import", "--hf-model", golden / name / "hf", "--megatron-path", tmp_path / "mcore")
    ponte("verify", "--hf-model", golden / name / "hf", "--megatron-path", tmp_path / "mcore")
    ponte("export", "--megatron-path", tmp_path / "mcore", "--hf-path", tmp_path / "hf")
    for file in (golden / name / "hf").iterdir():
        assert file.read_bytes() == (tmp_path / "hf" / file.name).read_bytes(), file.name


@pytest.mark.parametrize("name", GOLDEN)
def test_verify_says_what_bridge_rounded(ponte, golden, name):
    result = ponte("verify", "--hf-model", golden / name / "hf", "--megatron-path", golden / name / "mcore")
    assert ("6 parameters cast" in result.err) == (name == "qwen3_next_mtp")


def test_fp32_parameters_outlive_a_cast(ponte, golden, tmp_path):
    source = golden / "qwen3_next_mtp/hf"
    ponte("import", "--hf-model", source, "--megatron-path", tmp_path / "m", "--torch-dtype", "fp16")
    stored = dcp_tensors(tmp_path / "m")
    narrow = {key for key, tensor in stored.items() if tensor.dtype == torch.float16}
    assert {key for key in stored if key.endswith(FP32)}.isdisjoint(narrow) and len(narrow) > 50
    ponte("export", "--megatron-path", tmp_path / "m", "--hf-path", tmp_path / "hf", "--torch-dtype", "bf16")
    before, after = hf_tensors(source), hf_tensors(tmp_path / "hf")
    for name in before:
        assert after[name].dtype == before[name].dtype, name
        if name.endswith(FP32):
            assert torch.equal(after[name], before[name]), name


# --- models made here ---


def hybrid_model(folder, kind="qwen3_next", dtype="bfloat16", std=0.3, **changes):
    """A small random model with every shape different from its neighbours; `kind` one of qwen3_next, qwen3_5, qwen3_5_moe."""
    shape = dict(vocab_size=131, hidden_size=40, num_hidden_layers=4, num_attention_heads=6, num_key_value_heads=2, head_dim=8,
                 max_position_embeddings=128, linear_num_key_heads=2, linear_num_value_heads=6, linear_key_head_dim=12, linear_value_head_dim=20,
                 linear_conv_kernel_dim=3, layer_types=["linear_attention", "full_attention", "linear_attention", "linear_attention"],
                 rope_parameters={"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 0.5}, tie_word_embeddings=False)
    if kind != "qwen3_5":
        shape.update(num_experts=6, num_experts_per_tok=3, moe_intermediate_size=28, shared_expert_intermediate_size=36)
    if kind != "qwen3_5_moe":
        shape.update(intermediate_size=56)
    shape.update(changes)
    name = {"qwen3_next": ("Qwen3NextConfig", "Qwen3NextForCausalLM"), "qwen3_5": ("Qwen3_5TextConfig", "Qwen3_5ForCausalLM"),
            "qwen3_5_moe": ("Qwen3_5MoeTextConfig", "Qwen3_5MoeForCausalLM")}[kind]
    torch.manual_seed(7)
    model = getattr(transformers, name[1])(getattr(transformers, name[0])(**shape))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, std)
    model = model.to(getattr(torch, dtype))
    model.save_pretrained(folder)
    return model


def rewrite(folder, change):
    tensors = hf_tensors(folder)
    change(tensors)
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors", {"format": "pt"})


def rewrite_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    config.update(changes)
    (folder / "config.json").write_text(json.dumps(config, indent=2))


KINDS = {
    "next": ("qwen3_next", {}),
    "next, some layers dense": ("qwen3_next", dict(mlp_only_layers=[1, 2])),
    "next, tied": ("qwen3_next", dict(tie_word_embeddings=True)),
    "next, as many value as key heads": ("qwen3_next", dict(linear_num_value_heads=2)),
    "3.5": ("qwen3_5", {}),
    "3.5 with experts": ("qwen3_5_moe", {}),
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("witness", ["kept", "run_config.yaml", "args"])
def test_round_trip(ponte, tmp_path, name, witness):
    kind, changes = KINDS[name]
    hybrid_model(tmp_path / "hf", kind, **changes)
    ponte("import", "--hf-model", tmp_path / "hf", "--megatron-path", tmp_path / "m")
    ponte("verify", "--hf-model", tmp_path / "hf", "--megatron-path", tmp_path / "m")
    folder = tmp_path / "m/iter_0000000"
    if witness != "kept":
        shutil.rmtree(folder / "ponte")
    if witness == "args":
        (folder / "run_config.yaml").unlink()
    given = ["--hf-model", tmp_path / "hf"] if witness != "kept" and kind == "qwen3_5_moe" else []  # Megatron's settings do not tell it from Qwen3-Next
    ponte("export", "--megatron-path", tmp_path / "m", "--hf-path", tmp_path / "back", *given)
    assert_same(hf_tensors(tmp_path / "back"), hf_tensors(tmp_path / "hf"))
    before, after = (transformers.AutoConfig.from_pretrained(tmp_path / f) for f in ("hf", "back"))
    assert type(before) is type(after) and before.layer_types == after.layer_types
    for key in ("linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim", "linear_value_head_dim", "linear_conv_kernel_dim", "head_dim",
                "num_experts", "num_experts_per_tok", "moe_intermediate_size", "shared_expert_intermediate_size", "mlp_only_layers", "tie_word_embeddings"):
        assert getattr(before, key, None) == getattr(after, key, None), key
    for key in ("rope_theta", "partial_rotary_factor"):
        assert before.rope_parameters[key] == after.rope_parameters[key], key


def test_both_releases_are_one_network(ponte, tmp_path):
    """The same weights stored as Qwen3-Next and as Qwen3.5 become the same Megatron parameters, and each goes back as it came."""
    hybrid_model(tmp_path / "next")
    tensors = hf_tensors(tmp_path / "next")
    K, R, Dk, Dv, H = 2, 3, 12, 20, 40
    for name in [n for n in tensors if n.endswith("in_proj_qkvz.weight")]:
        at = name.removesuffix("in_proj_qkvz.weight")
        q, k, v, z = tensors.pop(name).view(K, -1, H).split([Dk, Dk, R * Dv, R * Dv], 1)
        b, a = tensors.pop(at + "in_proj_ba.weight").view(K, -1, H).split([R, R], 1)
        flat = lambda *parts: torch.cat([p.reshape(-1, H) for p in parts]).contiguous()
        tensors |= {at + "in_proj_qkv.weight": flat(q, k, v), at + "in_proj_z.weight": flat(z), at + "in_proj_b.weight": flat(b), at + "in_proj_a.weight": flat(a)}
    shutil.copytree(tmp_path / "next", tmp_path / "later")
    rewrite(tmp_path / "later", lambda old: (old.clear(), old.update(tensors)))
    rewrite_config(tmp_path / "later", architectures=["Qwen3_5MoeForCausalLM"], model_type="qwen3_5_moe_text")
    for name in ("next", "later"):
        ponte("import", "--hf-model", tmp_path / name, "--megatron-path", tmp_path / f"m_{name}")
        ponte("export", "--megatron-path", tmp_path / f"m_{name}", "--hf-path", tmp_path / f"back_{name}")
        assert_same(hf_tensors(tmp_path / f"back_{name}"), hf_tensors(tmp_path / name))
    assert_same(dcp_tensors(tmp_path / "m_next"), dcp_tensors(tmp_path / "m_later"))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_output_norm_of_any_value(ponte, tmp_path, dtype):
    """Every pattern of 16 bits, infinities and NaNs too (of fp32: as many random ones) in the norm whose Megatron twin is smaller by one."""
    kind = getattr(torch, dtype)
    layers, width = 17, 4096
    hybrid_model(tmp_path / "hf", dtype=dtype, num_hidden_layers=layers, layer_types=["linear_attention"] * (layers - 1) + ["full_attention"], hidden_size=8,
                 linear_num_key_heads=1, linear_num_value_heads=1, linear_value_head_dim=width, num_experts=2, num_experts_per_tok=1, vocab_size=16)
    generator = torch.Generator().manual_seed(1)
    if dtype == "float32":
        values = torch.randint(-2**31, 2**31, (2**16,), generator=generator).to(torch.int32).view(torch.float32)
    else:
        values = torch.arange(-2**15, 2**15).to(torch.int16).view(kind)
    values = values.reshape(16, width)
    # One layer whose values all shift exactly in 16 bits, one that fp32 holds, the rest anything.
    norms = {f"model.layers.{i}.linear_attn.norm.weight": values[i].clone() for i in range(16)}
    norms["model.layers.0.linear_attn.norm.weight"] = torch.linspace(0.5, 2, 4096).to(kind).where(torch.arange(4096) % 2 == 0, 1).to(kind)
    norms["model.layers.1.linear_attn.norm.weight"] = (torch.arange(4096) % 64 / 8192).to(kind)
    rewrite(tmp_path / "hf", lambda tensors: tensors.update(norms))
    ponte("import", "--hf-model", tmp_path / "hf", "--megatron-path", tmp_path / "m")
    stored = dcp_tensors(tmp_path / "m")
    if dtype != "float32":
        assert stored["decoder.layers.0.self_attention.out_norm.weight"].dtype == kind
        assert stored["decoder.layers.1.self_attention.out_norm.weight"].dtype == torch.float32
    ponte("verify", "--hf-model", tmp_path / "hf", "--megatron-path", tmp_path / "m")
    ponte("export", "--megatron-path", tmp_path / "m", "--hf-path", tmp_path / "back")
    assert_same(hf_tensors(tmp_path / "back"), hf_tensors(tmp_path / "hf"))


# --- prediction layers ---


def without_head(folder):
    rewrite(folder, lambda tensors: [tensors.pop(name) for name in list(tensors) if name.startswith("mtp.")])


def manifest_of(folder):
    return json.loads((folder / "ponte_manifest.json").read_text())


def test_types_beside_an_embedding_of_another(ponte, golden, tmp_path):
    """A bf16 model whose embedding is fp32: the output norms, fp32 on the Megatron side, come back in bf16."""
    folder = tmp_path / "hf"
    shutil.copytree(golden / "qwen3_next_mtp/hf", folder)
    rewrite(folder, lambda tensors: tensors.update({"model.embed_tokens.weight": tensors["model.embed_tokens.weight"].float()}))
    ponte("import", "--hf-model", folder, "--megatron-path", tmp_path / "m")
    ponte("export", "--megatron-path", tmp_path / "m", "--hf-path", tmp_path / "back")
    assert_same(hf_tensors(tmp_path / "back"), hf_tensors(folder))


def test_presence_of_the_head_is_read_from_names(ponte, golden, tmp_path):
    """A config that is silent about a head the weights have, and one that promises a head they do not have."""
    for name, count in (("silent", None), ("promises", 1)):
        folder = tmp_path / name
        shutil.copytree(golden / "qwen3_next_mtp/hf", folder)
        config = json.loads((folder / "config.json").read_text())
        if count is None:
            del config["num_nextn_predict_layers"]
        (folder / "config.json").write_text(json.dumps(config))
        if count == 1:
            without_head(folder)
        ponte("import", "--hf-model", folder, "--megatron-path", tmp_path / f"m_{name}")
        has_head = any(key.startswith("mtp.") for key in dcp_tensors(tmp_path / f"m_{name}"))
        assert has_head == (count is None)
        ponte("export", "--megatron-path", tmp_path / f"m_{name}", "--hf-path", tmp_path / f"back_{name}")
        assert_same(hf_tensors(tmp_path / f"back_{name}"), hf_tensors(folder))
        if count is None:
            assert (tmp_path / f"back_{name}/config.json").read_bytes() == (folder / "config.json").read_bytes()
        else:
            assert json.loads((tmp_path / f"back_{name}/config.json").read_text())["num_nextn_predict_layers"] == 0


def test_a_model_without_its_head_lists_exactly_those_keys(ponte, golden, tmp_path):
    source = golden / "qwen3_next_mtp/hf"
    shutil.copytree(source, tmp_path / "bare")
    without_head(tmp_path / "bare")
    ponte("import", "--hf-model", tmp_path / "bare", "--megatron-path", tmp_path / "m")
    head = {name for name in hf_tensors(source) if name.startswith("mtp.")}
    for name, given in (("kept", []), ("named", ["--hf-model", source])):
        result = ponte("export", "--megatron-path", tmp_path / "m", "--hf-path", tmp_path / name, *given)
        assert f"{len(head)} tensors absent by configuration" in result.err
        assert {line.split(":")[0] for line in manifest_of(tmp_path / name)["absent"]} == head
        assert_same(hf_tensors(tmp_path / name), hf_tensors(tmp_path / "bare"))
        assert json.loads((tmp_path / name / "config.json").read_text())["num_nextn_predict_layers"] == 0


def test_anything_else_missing_is_an_error(ponte, golden, tmp_path):
    ponte("import", "--hf-model", golden / "qwen3_next/hf", "--megatron-path", tmp_path / "m")
    shutil.copytree(golden / "qwen3_next/hf", tmp_path / "more")
    rewrite(tmp_path / "more", lambda tensors: tensors.update({"model.layers.0.linear_attn.extra.weight": torch.zeros(3)}))
    result = ponte("export", "--megatron-path", tmp_path / "m", "--hf-path", tmp_path / "hf", "--hf-model", tmp_path / "more", code=1)
    assert "model.layers.0.linear_attn.extra.weight" in result.err and not (tmp_path / "hf").exists()
