"""The `recipes` command and the dry run, as a user meets them; that recipes equal Megatron Bridge's is tests/unit/recipes."""
import json
import pathlib
import shutil

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.fast
def test_reference_page_is_current(ponte):
    assert ponte("recipes", "docs").out == (ROOT / "docs" / "configuration.md").read_text(), "run: ponte recipes docs > docs/configuration.md"


@pytest.mark.fast
def test_list_names_every_model_and_mode(ponte):
    names = [line.split()[0] for line in ponte("recipes", "list").out.splitlines() if "_config" in line and "<" not in line]
    for model in ("qwen2_500m", "qwen2_72b", "qwen25_14b", "qwen25_72b", "qwen3_600m", "qwen3_32b", "qwen3_30b_a3b", "qwen3_235b_a22b"):
        for mode in ("pretrain", "sft", "peft"):
            assert f"{model}_{mode}_config" in names
    assert len(names) == len(set(names)) == 60


GUIDES_LAYERS = "fllf llfl lllf llfl lllf llfl".replace(" ", "")
HYBRIDS = {  # the guide's own sizes: layers, hidden size, heads, dense width; None: it says nothing
    "qwen3_next_2b_fineweb": (20, 1800, 14, 4860), "qwen3_next_3b_fineweb": (24, 2048, 16, None), "qwen3_next_5b_fineweb": (30, 2560, 20, 6912),
    "qwen3_next_80b_a3b_pretrain_config": (48, 2048, 16, None)}


def counted(number):
    return f"{number:,} ({number / 1e9:.2f} billion)"


@pytest.mark.parametrize("name", HYBRIDS)
def test_hybrid_models_say_their_exact_size(ponte, name):
    """What heads `show` is what transformers counts in a model of these sizes; active: without the experts a token does not meet."""
    import torch
    import transformers
    shown = ponte("recipes", "show", name).out
    m = yaml.safe_load(shown)["model"]
    layers, hidden, heads, dense = HYBRIDS[name]
    assert (m["num_layers"], m["hidden_size"], m["num_attention_heads"]) == (layers, hidden, heads) and (dense is None or m["ffn_hidden_size"] == dense)
    if name.endswith("fineweb"):  # 24 layers, 7 of them full; repeated and cut for the others
        assert [kind[0] for kind in m["layer_types"]] == list((GUIDES_LAYERS * 2)[:layers])
        assert m["kv_channels"] == m["linear_key_head_dim"] == 128  # 1800 does not divide over 14 heads
    config = transformers.Qwen3NextConfig(
        vocab_size=m["vocab_size"], hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=m["num_query_groups"],
        head_dim=m["kv_channels"], linear_num_key_heads=m["linear_num_key_heads"], linear_num_value_heads=m["linear_num_value_heads"],
        linear_key_head_dim=m["linear_key_head_dim"], linear_value_head_dim=m["linear_value_head_dim"], linear_conv_kernel_dim=m["linear_conv_kernel_dim"],
        num_experts=m["num_moe_experts"], num_experts_per_tok=m["moe_router_topk"], moe_intermediate_size=m["moe_ffn_hidden_size"],
        shared_expert_intermediate_size=m["moe_shared_expert_intermediate_size"], layer_types=m["layer_types"],
        tie_word_embeddings=m["share_embeddings_and_output_weights"])
    with torch.device("meta"):
        sizes = {key: p.numel() for key, p in transformers.Qwen3NextForCausalLM(config).named_parameters()}
    total, experts = sum(sizes.values()), sum(n for key, n in sizes.items() if ".experts." in key)
    active = total - experts * (config.num_experts - config.num_experts_per_tok) // config.num_experts
    wanted = f"# {name}: {counted(total)} parameters, {counted(active)} of them active for each token"
    assert shown.splitlines()[0].split(";")[0] == wanted
    assert name.endswith("fineweb") or "; 1,650,471,424 (1.65 billion) more in multi-token prediction layers" in shown.splitlines()[0]


@pytest.mark.fast
@pytest.mark.parametrize("name", ["qwen3_next_2b_fineweb", "qwen3_next_3b_fineweb", "qwen3_next_5b_fineweb"])
def test_guides_knobs_under_their_names(ponte, tmp_path, name):
    """The guide's settings for 32 GB, in its file and as flags; the number of checkpointed layers alone means the first of each stage, with a method its groups."""
    knobs = {"micro_batch_size": 1, "tensor_model_parallel_size": 2, "activations_checkpoint_num_layers": 4}

    def resolved(*more):
        document = yaml.safe_load(ponte("train", "--recipe", name, "--nproc-per-node", 2, "--dry-run", *more).out)
        model = document["model"]
        return document["train"]["micro_batch_size"], model["tensor_model_parallel_size"], [model[f"recompute_{key}"] for key in ("granularity", "method", "num_layers")]

    def file(**more):
        (tmp_path / "knobs.yaml").write_text(yaml.safe_dump({"model": knobs | more}))
        return "--config-file", tmp_path / "knobs.yaml"

    assert resolved() == (2, 2, [None, None, 1])
    block, uniform = (1, 2, ["full", "block", 4]), (1, 2, ["full", "uniform", 4])
    flags = [word for key, value in knobs.items() for word in (f"--{key}", value)]
    assert resolved(*file()) == resolved(*flags) == block
    assert resolved("--micro_batch_size", 1, "model.activations_checkpoint_num_layers=4") == block
    assert resolved(*file(activations_checkpoint_method="uniform", activations_checkpoint_granularity="full")) == uniform
    assert resolved(*file(activations_checkpoint_num_layers=None)) == (1, 2, [None, None, 1])
    layers = HYBRIDS[name][0]
    saved = [yaml.safe_load(ponte("plan", "--recipe", name, "--gpus", 2, "--json", f"--activations_checkpoint_num_layers={n}").out)["memory"]["activations"]
             for n in (4, layers)]
    plain = yaml.safe_load(ponte("plan", "--recipe", name, "--gpus", 2, "--json").out)["memory"]["activations"]
    assert 0.7 * plain < saved[0] < 0.9 * plain and saved[1] < 0.1 * plain


@pytest.mark.fast
def test_show_is_yaml_that_reads_back(ponte, tmp_path):
    shown = ponte("recipes", "show", "qwen3_8b_sft_config").out
    document = yaml.safe_load(shown)
    assert document["model"]["params_dtype"] == "torch.bfloat16"
    assert document["optimizer"]["lr"] == 5e-6 and document["optimizer"]["adam_eps"] == 1e-8
    assert document["peft"]["scheme"] is None
    (tmp_path / "shown.yaml").write_text(shown)
    again = ponte("train", "--config-file", tmp_path / "shown.yaml", "--dry-run").out
    assert yaml.safe_load(again) == document


@pytest.mark.fast
def test_dry_run_names_origins(ponte, tmp_path):
    (tmp_path / "my.yaml").write_text("train:\n  train_iters: 7\n")
    result = ponte("train", "--recipe", "qwen3_600m_pretrain_config", "--config-file", tmp_path / "my.yaml", "--lr", "1e-3", "logger.wandb_project=p", "--dry-run")
    lines = {line.split(":")[0].strip(): line for line in result.out.splitlines() if not line.startswith("#")}
    assert f"# file {tmp_path}/my.yaml line 2" in lines["train_iters"]
    assert "0.001" in lines["lr"] and "# command line" in lines["lr"]
    assert "# recipe qwen3_600m_pretrain_config" in lines["global_batch_size"]
    assert "without effect: logger.wandb_project=p" in result.out


@pytest.mark.fast
def test_dry_run_needs_no_ranks(ponte):
    """Every recipe resolves on one machine, and says how many ranks its layout needs."""
    for recipe, ranks in (("qwen3_30b_a3b_pretrain_config", 16), ("qwen3_235b_a22b_pretrain_config", 128), ("qwen3_next_80b_a3b_pretrain_config", 32), ("qwen3_next_3b_fineweb", 2), ("qwen3_32b_pretrain_config", 16),
                          ("qwen3_600m_pretrain_config", 1)):
        result = ponte("train", "--recipe", recipe, "--dry-run")
        assert yaml.safe_load(result.out)["model"]["num_layers"] > 0
        assert f"needs {ranks} ranks" in result.err if ranks > 1 else "needs" not in result.err
    assert "not a multiple of" in ponte("train", "--recipe", "qwen3_30b_a3b_pretrain_config", "--dry-run", "--nproc-per-node", 3, code=1).err


@pytest.mark.fast
@pytest.mark.parametrize("recipe, words, batch", [
    ("qwen3_600m_pretrain_config", [], 4),
    ("qwen3_600m_pretrain_config", ["--nproc-per-node", 8], 32),
    ("qwen3_600m_pretrain_config", ["model.tensor_model_parallel_size=2"], 4),
    ("qwen3_600m_pretrain_config", ["model.tensor_model_parallel_size=2", "--nproc-per-node", 8], 16),
    ("qwen3_30b_a3b_pretrain_config", [], 64),
])
def test_a_replicas_micro_batches_decide_the_batch(ponte, recipe, words, batch):
    """For the ranks asked for, or the fewest the layout fits on."""
    shown = ponte("train", "--recipe", recipe, "--dry-run", "train.micro_batch_size=1", "train.accumulate_grad_batches=4", *words)
    assert yaml.safe_load(shown.out)["train"]["global_batch_size"] == batch


@pytest.mark.fast
@pytest.mark.parametrize("arguments, wanted", [
    (["--recipe", "qwen3_8b_pretrain_confg"], "did you mean qwen3_8b_pretrain_config?"),
    (["--recipe", "qwen3_600m_pretrain_config", "train.train_itres=1"], "did you mean train.train_iters?"),
    (["--recipe", "qwen3_600m_pretrain_config", "train.train_iters=x"], "train.train_iters must be an integer or null, not x"),
    (["--recipe", "qwen3_600m_pretrain_config", "--micro-batch-size", "5"], "train.global_batch_size 32 is not a multiple of train.micro_batch_size 5"),
    (["--recipe", "qwen3_600m_pretrain_config", "--train-itres", "5"], "did you mean --train-iters?"),
    (["--config-file", "/no/such.yaml"], "/no/such.yaml"),
    (["--hf-model", "/no/such/folder"], "/no/such/folder"),
    ([], "the model has no layers"),
])
def test_mistakes_exit_1(ponte, arguments, wanted):
    assert wanted in ponte("train", *arguments, "--dry-run", code=1).err


@pytest.mark.fast
def test_spellings_of_ms_swift(ponte, golden):
    words = ("--model", golden / "qwen3/hf", "--load_safetensors", "true", "--save_safetensors", "true", "--tensor_model_parallel_size", "2", "--sequence_parallel", "true",
             "--micro_batch_size", "1", "--global_batch_size", "4", "--recompute_granularity", "full", "--recompute_method", "uniform", "--recompute_num_layers", "1", "--finetune",
             "true", "--lr", "1e-5", "--lr_warmup_fraction", "0.05", "--min_lr", "1e-6", "--save", "out", "--save_interval", "200", "--max_length", "64", "--train_iters", "10",
             "--no_save_optim", "true", "--no_save_rng", "true", "--dry-run")
    document = yaml.safe_load(ponte("pt", *words).out)
    assert document["model"]["num_layers"] == 2 and document["model"]["sequence_parallel"] is True and document["model"]["seq_length"] == 64
    assert document["checkpoint"]["save_optim"] is False and document["checkpoint"]["save_hf"] is True
    assert document["optimizer"]["min_lr"] == 1e-6 and document["scheduler"]["lr_warmup_fraction"] == 0.05


@pytest.mark.fast
def test_missing_parts_are_named(ponte):
    result = ponte("train", "--recipe", "qwen3_8b_sft_config", "--dry-run")
    assert "fine-tuning data" in result.err


@pytest.mark.fast
def test_doctor_is_one_screen(ponte):
    result = ponte("doctor", code=None)
    assert result.code in (0, 1)
    assert len(result.out.splitlines()) <= 24
    for subject in ("processor", "memory", "torch", "NVIDIA driver", "NCCL", "hub cache"):
        assert subject in result.out


@pytest.mark.fast
def test_hf_model_overrules_the_recipes_prediction_head(ponte, golden, tmp_path):
    """The recipe trains one depth; what the model's tensors have counts, whatever its config says, and the command line has the last word."""
    for name, depths in (("qwen3_next", None), ("qwen3_next_mtp", 1)):
        shutil.copytree(golden / name / "hf", tmp_path / name)
        config = json.loads((tmp_path / name / "config.json").read_text())
        config["num_nextn_predict_layers"] = 0 if depths else 1
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        words = ("train", "--recipe", "qwen3_next_80b_a3b_pretrain_config", "--hf-model", tmp_path / name, "--dry-run", "model.pipeline_model_parallel_size=1",
                 "model.expert_model_parallel_size=1", "model.seq_length=256")
        model = yaml.safe_load(ponte(*words).out)["model"]
        assert (model["mtp_num_layers"], model["num_layers"]) == (depths, 4)
        assert yaml.safe_load(ponte(*words, "model.mtp_num_layers=0").out)["model"]["mtp_num_layers"] is None
