"""`ponte plan` from the outside: full-scale layouts, JSON, search and its overrides, errors."""
import json

import pytest

pytestmark = pytest.mark.fast

QWEN3_NEXT = {  # Qwen/Qwen3-Next-80B-A3B-Instruct's config.json, what decides sizes
    "architectures": ["Qwen3NextForCausalLM"], "model_type": "qwen3_next", "hidden_size": 2048, "intermediate_size": 5120, "num_hidden_layers": 48,
    "num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 256, "vocab_size": 151936, "max_position_embeddings": 262144, "rms_norm_eps": 1e-6,
    "rope_theta": 10000000, "partial_rotary_factor": 0.25, "tie_word_embeddings": False, "hidden_act": "silu", "attention_bias": False,
    "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_num_key_heads": 16, "linear_num_value_heads": 32,
    "full_attention_interval": 4, "num_experts": 512, "num_experts_per_tok": 10, "moe_intermediate_size": 512, "shared_expert_intermediate_size": 512,
    "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [], "router_aux_loss_coef": 0.001, "dtype": "bfloat16",
}
LAYOUT = ["model.tensor_model_parallel_size=2", "model.sequence_parallel=true", "model.pipeline_model_parallel_size=8", "model.expert_tensor_parallel_size=1"]
RUN = ["train.train_iters=10", "train.micro_batch_size=1", "train.global_batch_size=1024", "optimizer.lr=1e-4", "mixed_precision=bf16_mixed",
       "ddp.use_distributed_optimizer=true"]


def plan(ponte, *words):
    return json.loads(ponte("plan", "--json", *words).out)


def test_qwen3_235b_on_4096_gpus(ponte):
    p = plan(ponte, "--recipe", "qwen3_235b_a22b_pretrain_config", "--gpus", 4096, *LAYOUT, "model.context_parallel_size=1",
             "model.expert_model_parallel_size=32", "train.global_batch_size=4096")
    assert p["fits"] and len(p["stages"]) == 8
    assert p["layout"] | {"tensor": 2, "data": 256, "pipeline": 8, "expert": 32, "expert_data": 16} == p["layout"]
    assert [sum(c["layers"] for c in s["chunks"]) for s in p["stages"]] == [11] + [12] * 6 + [11]
    # Every parameter is somewhere: what tensor ranks share and what they repeat, experts by expert ranks.
    assert p["parameters"] == 235093634560


def test_qwen3_next_on_4096_gpus(ponte, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(QWEN3_NEXT))
    p = plan(ponte, "--hf-model", tmp_path, "--gpus", 4096, *LAYOUT, *RUN, "model.expert_model_parallel_size=16", "train.global_batch_size=4096")
    assert len(p["stages"]) == 8
    assert p["layout"]["expert_data"] == 32
    assert 79e9 < p["parameters"] < 82e9 and p["active_parameters"] < 4.5e9


@pytest.mark.parametrize("recipe, gpus, sizes", [
    ("qwen3_235b_a22b_pretrain_config", 512, {"tensor": 2, "pipeline": 8, "expert": 32}),
    ("qwen3_next_80b_a3b_pretrain_config", 256, {"tensor": 2, "pipeline": 8, "expert": 16}),
    ("qwen3_30b_a3b_pretrain_8gpu_h100_bf16_config", 8, {"tensor": 1, "pipeline": 1, "expert": 8, "sequence_parallel": False}),
])
def test_layouts_of_the_documentation(ponte, recipe, gpus, sizes):
    p = plan(ponte, "--recipe", recipe, "--layout", "documentation", "--gpus", gpus, "model.context_parallel_size=1", "train.global_batch_size=1024")
    assert p["layout"] | sizes == p["layout"]


def test_memory_adds_up_and_decides(ponte):
    words = ["--recipe", "qwen3_8b_pretrain_config", "--gpus", 16]
    p = plan(ponte, *words)
    m = p["memory"]
    assert m["total"] == sum(v for k, v in m.items() if k != "total")
    assert plan(ponte, *words, "--gpu-memory", m["total"] / 1e9 + 0.01)["fits"]
    assert not plan(ponte, *words, "--gpu-memory", m["total"] / 1e9 - 0.01)["fits"]
    assert p["step_seconds"] == pytest.approx(sum(p["seconds"].values()))
    screen = ponte("plan", *words).out
    for part in ["Memory of a rank", "Step, estimated", "Communication", "Assumed"]:
        assert part in screen


def test_what_replicas_divide(ponte):
    """Each strategy holds less; 8 replicas hold an eighth each of what they divide."""
    words = ["--recipe", "qwen3_8b_pretrain_config", "--gpus", 16, "--tensor-model-parallel-size", 2, "ddp.use_megatron_fsdp=true"]
    strategies = ["no_shard", "optim", "optim_grads", "optim_grads_params"]
    memory = [plan(ponte, *words, f"ddp.data_parallel_sharding_strategy={s}")["memory"] for s in strategies]
    for part, first in [("optimizer", 1), ("gradients", 2), ("parameters", 3)]:
        whole = memory[0][part]
        assert [m[part] for m in memory] == [whole if i < first else pytest.approx(whole / 8, rel=1e-6) for i in range(4)]
    assert "replicas divide optimizer, gradients and parameters in 2 groups" in ponte(
        "plan", *words, f"ddp.data_parallel_sharding_strategy={strategies[3]}", "ddp.num_distributed_optimizer_instances=2").out
    assert "ddp.outer_dp_sharding_strategy=optim" in ponte("plan", *words, "ddp.data_parallel_sharding_strategy=optim_grads",
                                                           "ddp.outer_dp_sharding_strategy=optim", code=1).err
    assert "num_distributed_optimizer_instances" in ponte("plan", *words, "ddp.num_distributed_optimizer_instances=3", code=1).err


def test_search_proposes_overrides_that_plan_the_same(ponte):
    words = ["--recipe", "qwen3_30b_a3b_pretrain_config", "--gpus", 64, "--gpu-memory", 80]
    found = plan(ponte, *words, "--search", "--top", 3)
    assert found["tried"] == found["fitting"] + len(found["rejected"]) and len(found["best"]) == 3
    assert all(r["reason"] for r in found["rejected"])
    for best in found["best"]:
        again = plan(ponte, *words, *best["overrides"])
        assert again["fits"] and again["memory"] == best["memory"]
        assert again["step_seconds"] == pytest.approx(best["step_seconds"])


def test_search_keeps_what_was_said(ponte):
    found = plan(ponte, "--recipe", "qwen3_8b_pretrain_config", "--gpus", 16, "--search", "--tensor-model-parallel-size", 4)
    assert found["best"] and all(b["layout"]["tensor"] == 4 for b in found["best"])


@pytest.mark.parametrize("words, message", [
    (["--recipe", "qwen3_8b_pretrain_config"], "on how many GPUs?"),
    (["--gpus", "8"], "which model?"),
    (["--recipe", "qwen3_8b_pretrain_config", "--gpus", "8", "--gpu", "h10"], "did you mean h100"),
    (["--recipe", "qwen3_8b_pretrain_config", "--gpus", "8", "--network", "fast"], "--network fast"),
    (["--recipe", "qwen3_8b_pretrain_config", "--gpus", "8", "--network", "inf"], "--network inf"),
    (["--recipe", "qwen3_8b_pretrain_config", "--gpus", "8", "--gpu-memory", "nan"], "--gpu-memory"),
    (["--recipe", "qwen3_8b_pretrain_config", "--gpus", "0"], "--gpus"),
    (["--recipe", "qwen3_8b_pretrain_config", "--gpus", "12", "model.tensor_model_parallel_size=8"], "12 ranks do not divide"),
    (["--recipe", "qwen3_8b_pretrain_config", "--gpus", "8", "model.pipeline_model_parallel_size=8"], "stages x chunks 8"),
])
def test_errors(ponte, words, message):
    assert message in ponte("plan", *words, code=1).err


def test_ranks_programs_at_full_scale(ponte):
    settings = ["--recipe", "qwen3_235b_a22b_pretrain_config", "--gpus", 512, *LAYOUT, "model.context_parallel_size=1", "model.expert_model_parallel_size=32",
                "train.global_batch_size=1024", "model.account_for_embedding_in_pipeline_split=true", "model.account_for_loss_in_pipeline_split=true"]
    out = ponte("plan", *settings, "--dry-run", 450).out
    assert out.startswith("rank 450 of 512: tensor 0, context 0, data 1, pipeline 7;") and "layers 83-93, loss" in out
    assert "what is held and sent is what the plan says" in out and "DIFFERENT" not in out and "TOO LITTLE" not in out
    out = ponte("plan", *settings, "--dry-run", "stages").out
    assert [line.split()[:2] for line in out.splitlines()[1:9]] == [[str(64 * stage), str(stage)] for stage in range(8)]
    assert "calls of ranks that share a group fit one another\nevery shape fits" in out
    for words, message in [("512", "there are 512 ranks"), ("0,x", "expected a rank"), ("-1", "there are 512 ranks"),
                           ("", "expected a rank"), ("0,0", "rank 0 is there twice")]:
        assert message in ponte("plan", *settings, "--dry-run", words, code=1).err
    assert "give one of them" in ponte("plan", *settings, "--dry-run", 0, "--search", code=1).err
