"""Logits, loss, every gradient and greedy tokens against transformers (eager attention, fp32 and fp64), over the architecture's variants."""
import pytest
import torch
import transformers
from parity import (Probe, assert_as_exact, assert_near, assert_outputs_near, assert_parity, batch, expect_same_bits_recomputed, greedy_tokens,
                    load_transformers, summed_loss)

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 10000.0}
VARIANTS = {
    "qwen3": ("qwen3", {}),
    "qwen3 tied": ("qwen3", dict(tie_word_embeddings=True)),
    "qwen3 odd sizes": ("qwen3", dict(vocab_size=8191, hidden_size=72, intermediate_size=100, num_attention_heads=6, num_key_value_heads=3, head_dim=20,
                                      eos_token_id=None, pad_token_id=None)),
    "qwen3 one group": ("qwen3", dict(num_key_value_heads=1)),
    "qwen3 linear": ("qwen3", dict(rope_parameters={"rope_type": "linear", "factor": 3.0, "rope_theta": 10000.0})),
    "qwen3 dynamic": ("qwen3", dict(max_position_embeddings=40, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0})),
    "qwen3 yarn": ("qwen3", dict(rope_parameters=YARN)),
    "qwen3 yarn factor": ("qwen3", dict(rope_parameters={**YARN, "attention_factor": 0.9, "beta_fast": 20.0, "beta_slow": 2.0})),
    "qwen3 llama3": ("qwen3", dict(rope_parameters={"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                                    "original_max_position_embeddings": 32, "rope_theta": 10000.0})),
    "qwen2": ("qwen2", {}),
    "qwen2 heads of another size": ("qwen2", dict(head_dim=24)),
    "qwen2 tied": ("qwen2", dict(tie_word_embeddings=True, num_hidden_layers=2)),
    "qwen2 sliding window": ("qwen2", dict(use_sliding_window=True, sliding_window=11, max_window_layers=1)),
}


def reference(folder, tokens, labels, mask, dtype=torch.float32):
    model = load_transformers(folder, dtype)
    logits = model(input_ids=tokens, use_cache=False).logits
    total = summed_loss(logits, labels, mask)
    (total / mask.sum()).backward()
    return logits.detach(), total.item(), {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_loss_and_gradients(variant, tiny, tmp_path):
    kind, changes = VARIANTS[variant]
    folder, _ = tiny(kind, **changes)
    data = batch(transformers.AutoConfig.from_pretrained(folder).vocab_size)
    assert_parity(Probe(folder, data, tmp_path / "out"), *reference(folder, *data))


@pytest.mark.parametrize("how", ["uniform:2", "block:1", "core_attn", "mlp", "layernorm"])
def test_recompute_changes_no_bit(how, tiny, tmp_path):
    folder, _ = tiny("qwen3")
    expect_same_bits_recomputed(folder, how, tmp_path)


def test_double_precision(tiny, tmp_path):
    """The fp64 model is the definition in ATen: transformers' angles are fp32 in both, so everything else agrees to rounding."""
    folder, _ = tiny("qwen3", num_hidden_layers=2)
    _, total, gradients = reference(folder, *batch(8192), torch.float64)
    ours = Probe(folder, batch(8192), tmp_path / "out", "dtype=fp64")
    assert abs(ours.loss - total) <= 1e-7 * abs(total)  # transformers' RMSNorm computes in fp32 whatever the type
    assert_near(ours.gradients, gradients, 2e-6)


@pytest.mark.parametrize("ours_type, dtype", [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_half_types_are_as_near_to_fp32_as_transformers_is(ours_type, dtype, tiny, tmp_path):
    folder, _ = tiny("qwen3", dtype="bfloat16")
    ours = Probe(folder, batch(8192), tmp_path / "out", f"dtype={ours_type}")
    assert_as_exact(ours, reference(folder, *batch(8192)), reference(folder, *batch(8192), dtype))


@pytest.mark.parametrize("variant", ["qwen3", "qwen3 tied", "qwen3 dynamic", "qwen2 sliding window"])
def test_cached_greedy_tokens(variant, tiny, tmp_path):
    kind, changes = VARIANTS[variant]
    folder, _ = tiny(kind, **changes)
    data = batch(8192, rows=3, length=23)
    ours = Probe(folder, data, tmp_path / "out", "generate=40").tokens
    wanted = greedy_tokens(folder, data[0], 40, min_new_tokens=40)
    # min_new_tokens bans the end token there; a row may part ways only where ours chose it.
    for row, (a, b) in enumerate(zip(ours, wanted)):
        ended = (a == 8189).nonzero()
        n = ended[0].item() if len(ended) else 40
        assert torch.equal(a[:n], b[:n]), row


@pytest.mark.parametrize("name", ["qwen2", "qwen3", "qwen3_untied", "qwen3_v515", "qwen3_moe"])
@pytest.mark.fast
def test_goldens(name, golden, tmp_path):
    tokens = torch.arange(3, 35)[None]
    data = (tokens, tokens, torch.ones(tokens.shape))
    logits, total, _ = reference(golden / name / "hf", *data)
    assert_outputs_near(Probe(golden / name / "hf", data, tmp_path / name, "dtype=fp32"), logits, total)
