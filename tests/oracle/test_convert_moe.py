"""Experts in every layout Hugging Face stores them in, and sparse checkpoints recognised by each witness a Megatron checkpoint may carry."""
import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import save_file
from test_convert_golden import assert_same, dcp_tensors, hf_tensors
from test_convert_packing import written

pytestmark = pytest.mark.fast

LAYERS, EXPERTS = 2, 8


def packed(tensors, orientation):
    """The golden's experts as one tensor each way a layer. Its gate_up matrix is square: only its sibling tells the orientation."""
    out = {name: t for name, t in tensors.items() if ".mlp.experts." not in name}
    for layer in range(LAYERS):
        at = f"model.layers.{layer}.mlp.experts."
        one = lambda e, which: tensors[f"{at}{e}.{which}_proj.weight"]
        gate_up = torch.stack([torch.cat([one(e, "gate"), one(e, "up")]) for e in range(EXPERTS)])
        down = torch.stack([one(e, "down") for e in range(EXPERTS)])
        assert gate_up.shape[1] == gate_up.shape[2] and down.shape[1] != down.shape[2]
        turn = (lambda t: t.transpose(1, 2).contiguous()) if orientation == "in_out" else (lambda t: t.contiguous())
        out[at + "gate_up_proj"], out[at + "down_proj"] = turn(gate_up), turn(down)
    return out


@pytest.fixture
def packed_model(golden, tmp_path):
    def make(orientation):
        folder = tmp_path / f"hf_{orientation}"
        shutil.copytree(golden / "qwen3_moe/hf", folder)
        save_file(packed(hf_tensors(folder), orientation), folder / "model.safetensors", {"format": "pt"})
        return folder

    return make


@pytest.mark.parametrize("orientation", ["out_in", "in_out"])
def test_packed_experts(ponte, golden, tmp_path, packed_model, orientation):
    folder = packed_model(orientation)
    ponte("import", "--hf-model", folder, "--megatron-path", tmp_path / "m")
    assert_same(dcp_tensors(tmp_path / "m"), dcp_tensors(golden / "qwen3_moe/mcore"))
    ponte("verify", "--hf-model", folder, "--megatron-path", tmp_path / "m")
    ponte("export", "--megatron-path", tmp_path / "m", "--hf-path", tmp_path / "back")  # as the checkpoint remembers
    assert_same(hf_tensors(tmp_path / "back"), hf_tensors(folder))


def test_export_writes_the_storage_of_the_model_named(ponte, golden, tmp_path, packed_model):
    native = golden / "qwen3_moe/mcore"
    for orientation in ("out_in", "in_out"):
        folder = packed_model(orientation)
        ponte("export", "--megatron-path", native, "--hf-model", folder, "--hf-path", tmp_path / f"to_{orientation}")
        assert_same(hf_tensors(tmp_path / f"to_{orientation}"), hf_tensors(folder))
    # A packed checkpoint to a model stored one by one, although it remembers its own storage.
    ponte("import", "--hf-model", tmp_path / "hf_in_out", "--megatron-path", tmp_path / "m")
    ponte("export", "--megatron-path", tmp_path / "m", "--hf-model", golden / "qwen3_moe/hf", "--hf-path", tmp_path / "single")
    assert_same(hf_tensors(tmp_path / "single"), hf_tensors(golden / "qwen3_moe/hf"))


def test_mixed_storage_is_refused(ponte, golden, tmp_path, packed_model):
    folder = packed_model("out_in")
    tensors = hf_tensors(folder)
    both = {**tensors, **{k: v for k, v in hf_tensors(golden / "qwen3_moe/hf").items() if ".experts." in k}}
    save_file({k: v.contiguous() for k, v in both.items()}, folder / "model.safetensors")
    assert "one by one and packed" in ponte("import", "--hf-model", folder, "--megatron-path", tmp_path / "m", code=1).err
    turned = dict(tensors)
    name = "model.layers.1.mlp.experts.down_proj"
    turned[name] = turned[name].transpose(1, 2).contiguous()
    turned["model.layers.1.mlp.experts.gate_up_proj"] = turned["model.layers.1.mlp.experts.gate_up_proj"][:, :-2].contiguous()
    save_file(turned, folder / "model.safetensors")
    assert "fit neither" in ponte("import", "--hf-model", folder, "--megatron-path", tmp_path / "m", code=1).err


def test_layers_of_different_layouts_are_refused(ponte, golden, tmp_path, packed_model):
    """One layer's experts stored otherwise: as its neighbour's turned, with the square gate_up left as it is (its sibling would mislead), one by one."""
    folder = packed_model("out_in")
    tensors, single = hf_tensors(folder), {k: v for k, v in hf_tensors(golden / "qwen3_moe/hf").items() if ".layers.1.mlp.experts." in k}
    turned = {k: v.transpose(1, 2) for k, v in tensors.items() if ".layers.1.mlp.experts." in k}
    down = "model.layers.1.mlp.experts.down_proj"
    for changes, gone in ((turned, ()), ({down: turned[down]}, ()), (single, turned)):
        changed = {k: v.contiguous() for k, v in {**tensors, **changes}.items() if k not in gone}
        save_file(changed, folder / "model.safetensors", {"format": "pt"})
        assert "two layouts" in ponte("import", "--hf-model", folder, "--megatron-path", tmp_path / "m", code=1).err
        assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("witness", ["run_config.yaml", "args"])
def test_foreign_checkpoint(ponte, golden, tmp_path, witness):
    """Nothing of HF's but the tokenizer is in it: the experts come from run_config.yaml, or from Megatron-LM's arguments in common.pt."""
    source = golden / "mcore016/qwen3_moe"
    if witness == "args":
        ponte("import", "--hf-model", source / "hf", "--megatron-path", tmp_path / "mcore")
        folder = tmp_path / "mcore/iter_0000000"
        shutil.rmtree(folder / "ponte")
        (folder / "run_config.yaml").unlink()
        args = torch.load(folder / "common.pt", weights_only=False)["args"]
        assert (args.num_experts, args.moe_router_topk, args.moe_ffn_hidden_size, args.moe_layer_freq) == (8, 2, 32, 1)
    else:
        shutil.copytree(source / "mcore", tmp_path / "mcore")
    ponte("export", "--megatron-path", tmp_path / "mcore", "--hf-path", tmp_path / "hf")
    assert_same(hf_tensors(tmp_path / "hf"), hf_tensors(source / "hf"))
    ours, theirs = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "hf", source / "hf"))
    for key, value in ours.items():
        if key in theirs:
            assert value == theirs[key], key


def sparse_model(kind, folder, **changes):
    shape = dict(vocab_size=160, hidden_size=40, intermediate_size=56, moe_intermediate_size=24, num_hidden_layers=4, num_attention_heads=4,
                 num_key_value_heads=2, num_experts=6, num_experts_per_tok=2, tie_word_embeddings=False)
    config_class, model_class = {"qwen3_moe": (transformers.Qwen3MoeConfig, transformers.Qwen3MoeForCausalLM),
                                 "qwen2_moe": (transformers.Qwen2MoeConfig, transformers.Qwen2MoeForCausalLM),
                                 "olmoe": (transformers.OlmoeConfig, transformers.OlmoeForCausalLM)}[kind]
    torch.manual_seed(3)
    model_class(config_class(**{**shape, **changes})).to(torch.bfloat16).save_pretrained(folder)


SPARSE_MODELS = {
    "dense layers among them": ("qwen3_moe", dict(head_dim=12, mlp_only_layers=[0, 2])),
    "every second layer": ("qwen3_moe", dict(head_dim=12, decoder_sparse_step=2)),
    "tied": ("qwen3_moe", dict(head_dim=12, tie_word_embeddings=True)),
    "qwen2-moe": ("qwen2_moe", dict(shared_expert_intermediate_size=28)),
    "qwen2-moe with dense layers": ("qwen2_moe", dict(shared_expert_intermediate_size=28, mlp_only_layers=[1])),
}


def test_olmoe(ponte, tmp_path):
    """Norms as wide as the whole projection; an expert's width under the dense name."""
    sparse_model("olmoe", tmp_path / "hf", intermediate_size=24)
    ponte("import", "--hf-model", tmp_path / "hf", "--megatron-path", tmp_path / "m")
    ponte("verify", "--hf-model", tmp_path / "hf", "--megatron-path", tmp_path / "m")
    stored = dcp_tensors(tmp_path / "m")
    assert stored["decoder.layers.self_attention.q_layernorm.weight"].shape == (4, 40)
    assert stored["decoder.layers.self_attention.k_layernorm.weight"].shape == (4, 20)
    assert stored["decoder.layers.mlp.experts.experts.linear_fc1.weight"].shape == (4, 6, 48, 40)
    ponte("export", "--megatron-path", tmp_path / "m", "--hf-path", tmp_path / "back")
    assert_same(hf_tensors(tmp_path / "back"), hf_tensors(tmp_path / "hf"))
    assert (tmp_path / "back/config.json").read_bytes() == (tmp_path / "hf/config.json").read_bytes()
    shutil.rmtree(tmp_path / "m/iter_0000000/ponte")
    ponte("export", "--megatron-path", tmp_path / "m", "--hf-path", tmp_path / "named", "--hf-model", tmp_path / "hf")
    assert_same(hf_tensors(tmp_path / "named"), hf_tensors(tmp_path / "hf"))


@pytest.mark.parametrize("kind", ["qwen2", "qwen2_moe"])
def test_heads_of_another_size(ponte, tiny, tmp_path, kind):
    """kv_channels that are not hidden / heads: head_dim, which these families' configuration classes lack and their models read. Written only then."""
    for size in (24, 16):
        folder, model = tiny(kind, head_dim=size)
        root, back = tmp_path / f"m{size}", tmp_path / f"hf{size}"
        ponte("import", "--hf-model", folder, "--megatron-path", root)
        shutil.rmtree(root / "iter_0000000/ponte")
        ponte("export", "--megatron-path", root, "--hf-path", back)
        assert_same(hf_tensors(back), hf_tensors(folder))
        written = json.loads((back / "config.json").read_text())
        assert written.get("head_dim") == (size if size == 24 else None)
        tokens = torch.arange(40).reshape(2, 20)
        again = transformers.AutoModelForCausalLM.from_pretrained(back, dtype=torch.float32)
        with torch.no_grad():
            assert torch.equal(again(tokens).logits, model(tokens).logits)


@pytest.mark.parametrize("name", SPARSE_MODELS)
@pytest.mark.parametrize("witness", ["kept", "run_config.yaml", "args"])
def test_round_trip(ponte, tmp_path, name, witness):
    kind, changes = SPARSE_MODELS[name]
    sparse_model(kind, tmp_path / "hf", **changes)
    ponte("import", "--hf-model", tmp_path / "hf", "--megatron-path", tmp_path / "m")
    ponte("verify", "--hf-model", tmp_path / "hf", "--megatron-path", tmp_path / "m")
    iteration = tmp_path / "m/iter_0000000"
    if witness != "kept":
        shutil.rmtree(iteration / "ponte")
    if witness == "args":
        (iteration / "run_config.yaml").unlink()
    ponte("export", "--megatron-path", tmp_path / "m", "--hf-path", tmp_path / "back")
    assert_same(hf_tensors(tmp_path / "back"), hf_tensors(tmp_path / "hf"))
    before, after = (transformers.AutoConfig.from_pretrained(tmp_path / f) for f in ("hf", "back"))
    sparse_layers = lambda c: [i for i in range(4) if i not in c.mlp_only_layers and (i + 1) % c.decoder_sparse_step == 0]
    assert sparse_layers(before) == sparse_layers(after)
    for key in ("num_experts", "num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob"):
        assert getattr(before, key) == getattr(after, key), key


@pytest.mark.parametrize("witness", ["run_config.yaml", "args"])
@pytest.mark.parametrize("scores", ["softmax", "sigmoid"])
def test_routers_of_a_foreign_checkpoint(ponte, tmp_path, witness, scores):
    """Groups, a factor, scores and a bias as Megatron's settings say them."""
    sparse_model("qwen3_moe", tmp_path / "hf", head_dim=12, num_experts=8)
    own = {"routed_scaling_factor": 2.5, "n_group": 4, "topk_group": 2, **({"scoring_func": scores} if scores == "sigmoid" else {})}
    config = json.loads((tmp_path / "hf/config.json").read_text()) | own
    (tmp_path / "hf/config.json").write_text(json.dumps(config))
    if scores == "sigmoid":
        biases = {f"model.layers.{layer}.mlp.gate.e_score_correction_bias": torch.randn(8) for layer in range(4)}
        save_file(hf_tensors(tmp_path / "hf") | biases, tmp_path / "hf/model.safetensors", {"format": "pt"})
    ponte("import", "--hf-model", tmp_path / "hf", "--megatron-path", tmp_path / "m")
    folder = tmp_path / "m/iter_0000000"
    shutil.rmtree(folder / "ponte")
    if witness == "args":
        (folder / "run_config.yaml").unlink()
    ponte("export", "--megatron-path", tmp_path / "m", "--hf-path", tmp_path / "back")
    assert_same(hf_tensors(tmp_path / "back"), hf_tensors(tmp_path / "hf"))
    back = json.loads((tmp_path / "back/config.json").read_text())
    assert {key: back.get(key) for key in ("scoring_func", *own)} == {"scoring_func": None, **own}


@pytest.mark.parametrize("name", ["qwen3-moe", *SPARSE_MODELS])
def test_norms_of_layers_without_transformer_engine(ponte, tmp_path, name):
    """megatron-core's get_gpt_decoder_block_spec(use_transformer_engine=False): a sparse layer's norm has the name of a dense layer's."""
    kind, changes = {"qwen3-moe": ("qwen3_moe", dict(head_dim=12)), **SPARSE_MODELS}[name]
    sparse_model(kind, tmp_path / "hf", **changes)
    ponte("import", "--hf-model", tmp_path / "hf", "--megatron-path", tmp_path / "native")
    state = dcp_tensors(tmp_path / "native")
    renamed = {key.replace("pre_mlp_layernorm.", "mlp.linear_fc1.layer_norm_"): tensor for key, tensor in state.items()}
    assert renamed.keys() != state.keys()
    written(tmp_path / "local", renamed)
    ponte("export", "--megatron-path", tmp_path / "local", "--hf-path", tmp_path / "back", "--hf-model", tmp_path / "hf")
    assert_same(hf_tensors(tmp_path / "back"), hf_tensors(tmp_path / "hf"))
    ponte("convert", "--megatron-path", tmp_path / "local", "--save", tmp_path / "m", "--ckpt-format", "torch_dist", "--hf-model", tmp_path / "hf")
    assert_same(dcp_tensors(tmp_path / "m"), state)
    # With a norm missing, the names are those that every other layer has.
    norm = next(key for key in renamed if "linear_fc1.layer_norm_" in key)
    written(tmp_path / "gap", {key: tensor for key, tensor in renamed.items() if key != norm})
    assert "1 missing" in ponte("export", "--megatron-path", tmp_path / "gap", "--hf-path", tmp_path / "no", "--hf-model", tmp_path / "hf", code=1).err


@pytest.mark.parametrize("kind", ["qwen3_moe", "qwen2_moe"])
@pytest.mark.parametrize("witness", ["run_config.yaml", "args"])
@pytest.mark.parametrize("every", [2, 3, "([1]+[0]*2)+[1]"])
def test_a_number_over_layers(ponte, tmp_path, kind, witness, every):
    """Megatron's moe_layer_freq=N: experts in layers 0, N, 2N, ..., where HF's decoder_sparse_step=N has them in layers N-1, 2N-1, ...;
    or the expression of Megatron-LM's command line."""
    dense = [1, 2] if isinstance(every, str) else [layer for layer in range(4) if layer % every]
    own = dict(head_dim=12) if kind == "qwen3_moe" else dict(shared_expert_intermediate_size=28)
    sparse_model(kind, tmp_path / "hf", mlp_only_layers=dense, **own)
    ponte("import", "--hf-model", tmp_path / "hf", "--megatron-path", tmp_path / "m")
    folder = tmp_path / "m/iter_0000000"
    shutil.rmtree(folder / "ponte")
    listed = "".join(f"  - {int(layer not in dense)}\n" for layer in range(4))
    if witness == "args":
        (folder / "run_config.yaml").unlink()
        common = torch.load(folder / "common.pt", weights_only=False)
        assert common["args"].moe_layer_freq == [int(layer not in dense) for layer in range(4)]
        common["args"].moe_layer_freq = every
        torch.save(common, folder / "common.pt")
    else:
        text = (folder / "run_config.yaml").read_text()
        assert f"  moe_layer_freq:\n{listed}" in text
        (folder / "run_config.yaml").write_text(text.replace(f"  moe_layer_freq:\n{listed}", f"  moe_layer_freq: {every}\n"))
    ponte("export", "--megatron-path", tmp_path / "m", "--hf-path", tmp_path / "back")
    assert_same(hf_tensors(tmp_path / "back"), hf_tensors(tmp_path / "hf"))
    config = transformers.AutoConfig.from_pretrained(tmp_path / "back")
    assert (config.mlp_only_layers, config.decoder_sparse_step) == (dense, 1)


# --- a run's own settings, and the model named for the rest ---


OWN = {"rope_theta": 500000.0, "rms_norm_eps": 1e-5, "num_experts_per_tok": 3, "norm_topk_prob": False, "scoring_func": "sigmoid", "routed_scaling_factor": 2.5,
       "n_group": 4, "topk_group": 2, "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256, "beta_fast": 32.0, "beta_slow": 1.0}}
NAMED = ("rotary_base", "layernorm_epsilon", "moe_router_topk", "moe_router_pre_softmax", "moe_router_score_function", "moe_router_topk_scaling_factor",
         "moe_router_num_groups", "moe_router_group_topk", "rope_scaling_type", "rope_scaling_factor")


def test_a_runs_own_mathematics_outlives_the_model_named_on_export(ponte, tiny, tmp_path):
    """From --hf-model come the words about the model (and what only they say); what was trained stays, each difference named."""
    folder, _ = tiny("qwen3_moe", num_hidden_layers=2)
    base = json.loads((folder / "config.json").read_text())
    base.pop("rope_parameters", None)
    base |= {"rope_theta": 10000.0, "architectures": ["Qwen3MoeForCausalLM"]}
    for name, changes in (("release", {"note": "kept as it is", "attention_dropout": 0.125}), ("trained", OWN)):
        shutil.copytree(folder, tmp_path / name)
        (tmp_path / name / "config.json").write_text(json.dumps(base | changes, indent=2) + "\n")
    ponte("import", "--hf-model", tmp_path / "trained", "--megatron-path", tmp_path / "m")
    result = ponte("export", "--megatron-path", tmp_path / "m", "--hf-path", tmp_path / "hf", "--hf-model", tmp_path / "release")
    written = json.loads((tmp_path / "hf/config.json").read_text())
    for key, value in OWN.items():
        found = written[key] if key != "rope_scaling" else {k: written[key][k] for k in value}
        assert found == value, key
    assert written["note"] == "kept as it is" and written["attention_dropout"] == 0.125
    for key in NAMED:
        assert f"{key}: " in result.err and " as in the checkpoint, not " in result.err, key
    again = ponte("export", "--megatron-path", tmp_path / "m", "--hf-path", tmp_path / "same", "--hf-model", tmp_path / "trained")
    assert (tmp_path / "same/config.json").read_bytes() == (tmp_path / "trained/config.json").read_bytes() and "as in the checkpoint" not in again.err


@pytest.mark.parametrize("setting", ["model.rotary_percent=0.5", "model.add_qkv_bias=true", "model.qk_layernorm=false", "model.attention_output_gate=true",
                                     "model.moe_shared_expert_intermediate_size=16", "model.mtp_num_layers=1"])
def test_a_setting_that_config_json_cannot_say_is_refused_before_training(ponte, tiny, tmp_path, setting):
    """For export would refuse or change what was trained. A dry run says so too."""
    folder, _ = tiny("qwen3_moe", num_hidden_layers=2)
    run = ("train", "--hf-model", folder, setting, "train.train_iters=1", "train.global_batch_size=1", "model.seq_length=32", "optimizer.lr=1e-3")
    assert f"{setting} in a Qwen3MoeForCausalLM would be lost" in ponte(*run, code=1).err
    assert f"{setting} will be refused" in ponte(*run, "--dry-run").err
