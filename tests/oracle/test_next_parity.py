"""Qwen3-Next against transformers: logits, loss, every gradient, greedy tokens; gated delta nets with every head ratio, gated attention, partial rotation.

transformers computes its gated delta rule and its norms in fp32 whatever the model's type. As the oracle in fp64 they are replaced here by the recurrence
and the norms' formulas in the tensors' own type."""
import contextlib

import pytest
import torch
import transformers
from parity import (Probe, assert_as_exact, assert_near, assert_outputs_near, batch, expect_same_bits_recomputed, greedy_tokens, load_transformers, relative,
                    summed_loss)
from test_convert_next import hybrid_model
from test_generate import PROMPTS, generate_json, greedy_of_transformers, tokenizer_of
from test_moe_parity import balancing_loss, one_by_one
from transformers.models.qwen3_5 import modeling_qwen3_5
from transformers.models.qwen3_5_moe import modeling_qwen3_5_moe
from transformers.models.qwen3_next import modeling_qwen3_next as theirs

RELEASES = ((theirs, "Qwen3Next"), (modeling_qwen3_5, "Qwen3_5"), (modeling_qwen3_5_moe, "Qwen3_5Moe"))  # classes of the same layers

LINEAR, FULL = "linear_attention", "full_attention"
VARIANTS = {
    "qwen3-next": {},
    "one value head for each key head": dict(linear_num_value_heads=2),
    "four value heads for each key head": dict(linear_num_value_heads=8),
    "odd sizes": dict(vocab_size=8191, hidden_size=72, moe_intermediate_size=20, num_experts=7, num_experts_per_tok=3, num_attention_heads=6,
                      num_key_value_heads=3, head_dim=40, linear_num_key_heads=3, linear_num_value_heads=6, linear_key_head_dim=12,
                      linear_value_head_dim=20, eos_token_id=None, pad_token_id=None),
    "tied": dict(tie_word_embeddings=True),
    "whole heads rotate": dict(partial_rotary_factor=1.0),
    "a list of layer types": dict(layer_types=[FULL, LINEAR, FULL, LINEAR]),
    "short convolution": dict(linear_conv_kernel_dim=2),
    "dense layers among them": dict(mlp_only_layers=[1]),
    "linear attention alone": dict(layer_types=[LINEAR] * 4),
}


def recurrence(query, key, value, g, beta, initial_state=None, output_final_state=False, use_qk_l2norm_in_kernel=False, **_):
    """The gated delta rule token by token; q, k, v [B, T, heads, dim], g and beta [B, T, heads]."""
    query, key = theirs.l2norm(query), theirs.l2norm(key)
    query = query * query.shape[-1] ** -0.5
    state = torch.zeros(value.shape[0], value.shape[2], key.shape[-1], value.shape[-1], dtype=value.dtype) if initial_state is None else initial_state
    out = []
    for t in range(value.shape[1]):
        k = key[:, t].unsqueeze(-1)
        state = state * g[:, t].exp()[..., None, None]
        state = state + k * ((value[:, t] - (state * k).sum(-2)) * beta[:, t].unsqueeze(-1)).unsqueeze(-2)
        out.append((state * query[:, t].unsqueeze(-1)).sum(-2))
    return torch.stack(out, 1), state


@contextlib.contextmanager
def in_their_own_type(model):
    """Norms, router scores and the gated delta rule without casts to fp32."""
    def norm(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * (1 + self.weight)

    def gated_norm(self, x, gate):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)) * torch.nn.functional.silu(gate)

    patched = [(getattr(module, prefix + kind), forward) for module, prefix in RELEASES for kind, forward in (("RMSNorm", norm), ("RMSNormGated", gated_norm))]
    before = [kind.forward for kind, _ in patched]
    tensor_float, softmax = torch.Tensor.float, torch.nn.functional.softmax
    for kind, forward in patched:
        kind.forward = forward
    for module in model.modules():
        if isinstance(module, tuple(getattr(release, prefix + "GatedDeltaNet") for release, prefix in RELEASES)):
            module.chunk_gated_delta_rule = recurrence
    torch.Tensor.float = lambda self: self if self.dtype == torch.float64 else tensor_float(self)  # A_log and the step sizes
    torch.nn.functional.softmax = lambda x, dim=None, dtype=None, **_: softmax(x, dim=dim)
    try:
        yield
    finally:
        for (kind, _), forward in zip(patched, before):
            kind.forward = forward
        torch.Tensor.float, torch.nn.functional.softmax = tensor_float, softmax


def reference(folder, tokens, labels, mask, dtype=torch.float32, exact=False):
    model = load_transformers(folder, dtype)
    with in_their_own_type(model) if exact else contextlib.nullcontext():
        out = model(input_ids=tokens, use_cache=False, output_router_logits=True)
    total = summed_loss(out.logits, labels, mask)
    balance = balancing_loss(out.router_logits, model.config.num_experts_per_tok)
    (total / mask.sum() + model.config.router_aux_loss_coef * balance).backward()
    return out.logits.detach(), total.item(), one_by_one({name: p.grad for name, p in model.named_parameters()})


def assert_gradients_near(found, wanted, bound, bound_of_sums):
    """A_log's and dt_bias's are sums over all tokens of terms of either sign, which fp32 gets less exactly than their terms."""
    is_sum = {name: name.endswith(("A_log", "dt_bias")) for name in wanted}
    assert_near({n: g for n, g in found.items() if not is_sum.get(n)}, {n: g for n, g in wanted.items() if not is_sum[n]}, bound)
    sums = {n: relative(found[n], g) for n, g in wanted.items() if is_sum[n]}
    assert max(sums.values()) <= bound_of_sums, sums


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_loss_and_gradients(variant, tiny, tmp_path):
    folder, _ = tiny("qwen3_next", **VARIANTS[variant])
    data = batch(transformers.AutoConfig.from_pretrained(folder).vocab_size, length=100)
    logits, total, gradients = reference(folder, *data, torch.float64, exact=True)
    ours = Probe(folder, data, tmp_path / "out")
    assert_outputs_near(ours, logits, total)
    assert_gradients_near(ours.gradients, gradients, 1e-5, 3e-5)


def test_sums_over_tokens_are_nearer_to_exact_than_those_of_transformers(tiny, tmp_path):
    folder, _ = tiny("qwen3_next")
    data = batch(8192, length=100)
    exact = reference(folder, *data, torch.float64, exact=True)[2]
    theirs_in_fp32 = reference(folder, *data)[2]
    ours = Probe(folder, data, tmp_path / "out").gradients
    for leaf in ("A_log", "dt_bias"):
        names = [name for name in exact if name.endswith(leaf)]
        assert len(names) == 3
        assert sum(relative(ours[n], exact[n]) for n in names) <= sum(relative(theirs_in_fp32[n], exact[n]) for n in names), leaf


def test_against_transformers_as_it_is(tiny, tmp_path):
    folder, _ = tiny("qwen3_next")
    data = batch(8192, length=100)
    logits, total, gradients = reference(folder, *data)
    ours = Probe(folder, data, tmp_path / "out")
    assert_outputs_near(ours, logits, total)
    assert_gradients_near(ours.gradients, gradients, 1e-5, 2e-4)


def test_double_precision(tiny, tmp_path):
    folder, _ = tiny("qwen3_next")
    _, total, gradients = reference(folder, *batch(8192), torch.float64, exact=True)
    ours = Probe(folder, batch(8192), tmp_path / "out", "dtype=fp64")
    assert abs(ours.loss - total) <= 1e-9 * abs(total)
    assert_near(ours.gradients, gradients, 1e-6)  # the files of gradients are fp32; angles are fp32 in both


def test_bf16_is_as_near_to_fp32_as_transformers_is(tiny, tmp_path):
    """Where every expert is chosen, so that no rounding changes a choice."""
    folder, _ = tiny("qwen3_next", dtype="bfloat16", num_experts=4, num_experts_per_tok=4)
    ours = Probe(folder, batch(8192), tmp_path / "out", "dtype=bf16")
    sums = lambda name: 4 if name.endswith(("A_log", "dt_bias")) else 1.3  # over tokens: see assert_gradients_near
    assert_as_exact(ours, reference(folder, *batch(8192)), reference(folder, *batch(8192), torch.bfloat16), sums)


@pytest.mark.parametrize("how", ["uniform:2", "core_attn", "moe", "layernorm"])
def test_recompute_changes_no_bit(how, tiny, tmp_path):
    folder, _ = tiny("qwen3_next")
    expect_same_bits_recomputed(folder, how, tmp_path)


@pytest.mark.parametrize("variant", ["qwen3-next", "odd sizes", "a list of layer types", "short convolution", "four value heads for each key head"])
def test_cached_greedy_tokens(variant, tiny, tmp_path):
    folder, _ = tiny("qwen3_next", **VARIANTS[variant])
    data = batch(8191, rows=4, length=70)
    ours = Probe(folder, data, tmp_path / "out", "generate=64").tokens
    assert torch.equal(ours, greedy_tokens(folder, data[0], 64, eos_token_id=8192))


@pytest.mark.parametrize("changes", [{}, dict(tie_word_embeddings=True, linear_num_value_heads=8)])
def test_twenty_prompts_in_batches(changes, ponte, tiny):
    """Prompts of different lengths share a batch; each gives what it gives alone in transformers."""
    folder, model = tiny("qwen3_next", **changes)
    tokenizer = tokenizer_of(folder)
    ours = generate_json(ponte, folder, PROMPTS, "--max-new-tokens", 64, "--ignore-eos", "--batch-size", 7)
    for prompt, line in zip(PROMPTS, ours, strict=True):
        assert line["tokens"] == greedy_of_transformers(model, tokenizer, prompt, 64), prompt


# --- the Qwen3.5 text models: the same layers, stored and named otherwise ---


def objective_3_5(folder, tokens, labels, mask):
    """Logits, summed loss and gradients in fp64."""
    model = load_transformers(folder, torch.float64)
    sparse = hasattr(model.config, "num_experts")
    with in_their_own_type(model):
        out = model(input_ids=tokens, use_cache=False, **(dict(output_router_logits=True) if sparse else {}))
    total = summed_loss(out.logits, labels, mask)
    balance = 0.01 * balancing_loss(out.router_logits, model.config.num_experts_per_tok) if sparse else 0
    (total / mask.sum() + balance).backward()
    return out.logits.detach(), total.item(), {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("kind, changes", [("qwen3_5", {}), ("qwen3_5", dict(tie_word_embeddings=True, linear_num_value_heads=2)),
                                           ("qwen3_5_moe", dict(router_aux_loss_coef=0.01))], ids=["dense", "dense, tied", "experts"])
def test_qwen3_5_logits_loss_gradients_and_tokens(kind, changes, tmp_path):
    folder = tmp_path / "hf"
    hybrid_model(folder, kind, dtype="float32", std=0.1, **changes)
    data = batch(131)
    logits, total, gradients = objective_3_5(folder, *data)
    ours = Probe(folder, data, tmp_path / "out", "model.moe_router_load_balancing_type=aux_loss")
    assert_outputs_near(ours, logits, total)
    assert_gradients_near(ours.gradients, gradients, 1e-5, 3e-5)
    assert torch.equal(Probe(folder, data, tmp_path / "greedy", "generate=40").tokens, greedy_tokens(folder, data[0], 40, eos_token_id=131))
