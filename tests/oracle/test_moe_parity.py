"""Sparse models against transformers: logits, loss, every gradient with the balancing losses in the objective, greedy tokens."""
import json
import re
import shutil

import pytest
import torch
import transformers
from parity import (Probe, assert_as_exact, assert_near, assert_parity, batch, expect_same_bits_recomputed, greedy_tokens, load_transformers, relative,
                    summed_loss)

VARIANTS = {
    "qwen3-moe": ("qwen3_moe", {}),
    "weights not normalised": ("qwen3_moe", dict(norm_topk_prob=False)),
    "odd sizes": ("qwen3_moe", dict(vocab_size=8191, hidden_size=72, moe_intermediate_size=20, num_experts=7, num_experts_per_tok=3, num_attention_heads=6,
                                    num_key_value_heads=3, head_dim=20, eos_token_id=None, pad_token_id=None)),
    "one expert per token": ("qwen3_moe", dict(num_experts_per_tok=1, norm_topk_prob=False)),
    "every expert": ("qwen3_moe", dict(num_experts=4, num_experts_per_tok=4)),
    "many experts": ("qwen3_moe", dict(num_experts=64, num_experts_per_tok=8, moe_intermediate_size=16)),
    "tied": ("qwen3_moe", dict(tie_word_embeddings=True)),
    "dense layers among them": ("qwen3_moe", dict(mlp_only_layers=[1])),
    "qwen2-moe": ("qwen2_moe", {}),
    "qwen2-moe with dense layers, tied": ("qwen2_moe", dict(mlp_only_layers=[1], tie_word_embeddings=True, norm_topk_prob=True)),
    "qwen3-moe, sliding": ("qwen3_moe", dict(use_sliding_window=True, sliding_window=11, max_window_layers=1)),
    "qwen2-moe, sliding": ("qwen2_moe", dict(use_sliding_window=True, sliding_window=11, max_window_layers=2)),
    "olmoe": ("olmoe", {}),
    "olmoe, odd sizes": ("olmoe", dict(hidden_size=72, intermediate_size=20, num_experts=7, num_experts_per_tok=3, num_attention_heads=6, num_key_value_heads=3,
                                       norm_topk_prob=True)),
    "olmoe, a key for each query, tied": ("olmoe", dict(num_key_value_heads=4, tie_word_embeddings=True)),
}
AUX_LOSS = "model.moe_router_load_balancing_type=aux_loss"  # OLMoE's own is per sequence


def softmax_scores(logits):
    return torch.softmax(logits, -1, dtype=torch.promote_types(logits.dtype, torch.float32))


def balancing_loss(router_logits, choices, rows=1, real=None, score=softmax_scores):
    """Megatron's: a loss for each layer, 1 when its experts are used evenly, summed over the layers. rows: of how many sequences to take the mean; real: tokens
    that are no padding."""
    total = 0
    for logits in router_logits:
        probabilities = score(logits)
        chosen = torch.zeros_like(probabilities).scatter(1, probabilities.topk(choices, -1).indices, 1.0)
        counted = torch.ones(len(logits), dtype=torch.bool) if real is None else real.flatten()
        for p, c, r in zip(probabilities.chunk(rows), chosen.chunk(rows), counted.chunk(rows)):
            total = total + logits.shape[1] * (c[r].mean(0) / choices * p[r].mean(0)).sum() / rows
    return total


def one_by_one(gradients):
    """transformers packs a layer's experts; files hold them apart."""
    out = {}
    for name, g in gradients.items():
        packed = re.fullmatch(r"(.*\.experts)\.(gate_up|down)_proj", name)
        if not packed:
            out[name] = g
            continue
        for e, matrix in enumerate(g):
            parts = zip(("gate", "up"), matrix.chunk(2)) if packed[2] == "gate_up" else [("down", matrix)]
            out.update({f"{packed[1]}.{e}.{which}_proj.weight": part for which, part in parts})
    return out


def reference(folder, tokens, labels, mask, dtype=torch.float32, own_loss=False):
    model = load_transformers(folder, dtype)
    out = model(input_ids=tokens, use_cache=False, output_router_logits=True)
    total = summed_loss(out.logits, labels, mask)
    choices = model.config.num_experts_per_tok
    balance = out.aux_loss / choices if own_loss else balancing_loss(out.router_logits, choices)
    (total / mask.sum() + model.config.router_aux_loss_coef * balance).backward()
    return out.logits.detach(), total.item(), one_by_one({name: p.grad for name, p in model.named_parameters()})


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_loss_and_gradients(variant, tiny, tmp_path):
    kind, changes = VARIANTS[variant]
    folder, _ = tiny(kind, **changes)
    data = batch(transformers.AutoConfig.from_pretrained(folder).vocab_size)
    assert_parity(Probe(folder, data, tmp_path / "out", AUX_LOSS), *reference(folder, *data))


# Keys a config.json may leave to its class, with what to say instead in the model that is compared.
SILENT = {"qwen3_moe": dict(norm_topk_prob=False), "qwen2_moe": {}, "olmoe": {}, "qwen3_next": {}}


@pytest.mark.parametrize("kind", SILENT)
def test_a_config_that_leaves_keys_to_its_class(kind, tiny, tmp_path):
    folder, model = tiny(kind, **SILENT[kind])
    config, wanted = json.loads((folder / "config.json").read_text()), {"num_hidden_layers", "num_experts_per_tok", "num_key_value_heads", "hidden_size",
                                                                        "intermediate_size", "moe_intermediate_size", "num_attention_heads", "head_dim",
                                                                        "vocab_size", "num_experts", "num_local_experts", "architectures", "model_type",
                                                                        "shared_expert_intermediate_size"}
    silent = tmp_path / "silent"
    shutil.copytree(folder, silent)
    (silent / "config.json").write_text(json.dumps({key: value for key, value in config.items() if key in wanted or key.startswith("linear_")}))
    data = batch(8192)
    with torch.no_grad():
        logits = load_transformers(silent)(data[0]).logits
    assert relative(Probe(silent, data, tmp_path / "out").logits, logits) <= 1e-5


@pytest.mark.parametrize("layers", [1, 3])
def test_balancing_loss_alone_is_that_of_transformers_in_one_layer(layers, tiny, tmp_path):
    """transformers multiplies shares and probabilities averaged over all layers, and counts a token once for each choice; with one layer its loss is
    `choices` times ours. With several the two differ, which this sees too."""
    folder, _ = tiny("qwen3_moe", num_hidden_layers=layers, router_aux_loss_coef=5.0)
    _, _, gradients = reference(folder, *batch(8192), own_loss=True)
    name = "model.layers.0.mlp.gate.weight"
    difference = relative(Probe(folder, batch(8192), tmp_path / "out").gradients[name], gradients[name])
    assert difference <= 1e-5 if layers == 1 else difference > 1e-2


def test_double_precision(tiny, tmp_path):
    folder, _ = tiny("qwen3_moe", num_hidden_layers=2)
    _, total, gradients = reference(folder, *batch(8192), torch.float64)
    ours = Probe(folder, batch(8192), tmp_path / "out", "dtype=fp64")
    assert abs(ours.loss - total) <= 1e-7 * abs(total)  # transformers' norms and router scores are fp32
    assert_near(ours.gradients, gradients, 5e-6)


def test_bf16_is_as_near_to_fp32_as_transformers_is(tiny, tmp_path):
    """Where every expert is chosen, so that no rounding changes a choice."""
    folder, _ = tiny("qwen3_moe", dtype="bfloat16", num_experts=4, num_experts_per_tok=4)
    ours = Probe(folder, batch(8192), tmp_path / "out", "dtype=bf16")
    assert_as_exact(ours, reference(folder, *batch(8192)), reference(folder, *batch(8192), torch.bfloat16))


@pytest.mark.parametrize("how", ["uniform:2", "core_attn", "moe", "layernorm"])
def test_recompute_changes_no_bit(how, tiny, tmp_path):
    folder, _ = tiny("qwen3_moe")
    expect_same_bits_recomputed(folder, how, tmp_path)


@pytest.mark.parametrize("variant", ["qwen3-moe", "odd sizes", "dense layers among them", "qwen3-moe, sliding", "qwen2-moe", "qwen2-moe, sliding",
                                     "olmoe", "olmoe, odd sizes"])
def test_cached_greedy_tokens(variant, tiny, tmp_path):
    kind, changes = VARIANTS[variant]
    folder, _ = tiny(kind, **changes)
    data = batch(8191, rows=3, length=23)
    ours = Probe(folder, data, tmp_path / "out", "generate=40").tokens
    assert torch.equal(ours, greedy_tokens(folder, data[0], 40, eos_token_id=8192))


# --- routers as a run may set them, through the whole model ---


class Settings:
    """A router by Megatron's formulas, in place of transformers' own; keeps the logits of every layer."""

    def __init__(self, sigmoid=False, groups=0, group_choices=0, scale=1.0, capacity=None, by_position=False, padded=False, real=None, bias_rate=0.0):
        self.sigmoid, self.groups, self.group_choices, self.scale, self.capacity, self.by_position = sigmoid, groups, group_choices, scale, capacity, by_position
        self.real, self.bias_rate = real, bias_rate  # real: tokens that are no padding
        self.logits, self.dropped = [], 0
        self.padded = padded
        self.bias, self.counts = {}, {}  # by gate; what each expert got since the bias was moved

    def keep(self, weights, experts, count):
        """Weights with those beyond an expert's capacity set to zero: of a full expert the first stay, or those with the largest weights."""
        choices = experts.numel() if self.real is None else int(self.real.sum()) * experts.shape[1]
        capacity = -(-choices * self.capacity // count)
        kept = torch.zeros_like(weights, dtype=torch.bool)
        for e in range(count):
            mine = experts == e if self.real is None else (experts == e) & self.real.view(-1, 1)
            pairs = mine.nonzero()
            order = torch.arange(len(pairs)) if self.by_position else weights[mine].argsort(descending=True, stable=True)
            for token, choice in pairs[order[:int(capacity)]]:
                kept[token, choice] = True
        if self.padded:
            self.pad(kept, experts, count, int(capacity))
        self.dropped += int(((~kept) if self.real is None else (~kept) & self.real.view(-1, 1)).sum())
        return torch.where(kept, weights, torch.zeros_like(weights))

    def pad(self, kept, experts, count, capacity):
        """Megatron's filling: every expert short of its capacity gets tokens that did not choose it, to be given weight zero."""
        taken = torch.zeros(len(experts), count, dtype=torch.bool).scatter(1, torch.where(kept, experts, experts[:, :1]), kept)
        chosen = torch.zeros_like(taken).scatter(1, experts, True)
        self.filled = [[e for e in range(count) if not chosen[token, e]] for token in range(len(experts))]
        room = capacity - taken.sum(0)
        for own in self.filled:
            own[:] = [e for e in own if room[e] > 0]
            room[own] -= 1
        assert max(map(len, self.filled)) > 0

    def __call__(self, gate, hidden):
        logits = torch.nn.functional.linear(hidden.reshape(-1, gate.hidden_dim), gate.weight)
        self.logits.append(logits)
        scores = logits.sigmoid() if self.sigmoid else logits
        allowed = scores.detach()
        if self.bias_rate:
            allowed = allowed + self.bias.setdefault(gate, torch.zeros(gate.num_experts))
        if self.groups:
            grouped = allowed.unflatten(1, (self.groups, -1))
            best = grouped.topk(gate.top_k // self.group_choices, -1).values.sum(-1).topk(self.group_choices, -1).indices
            open_groups = torch.zeros(grouped.shape[:2], dtype=torch.bool).scatter(1, best, True)
            allowed = grouped.masked_fill(~open_groups.unsqueeze(-1), float("-inf")).flatten(1)
        experts = allowed.topk(gate.top_k, -1).indices
        if self.bias_rate:
            self.counts[gate] = self.counts.get(gate, 0) + experts.flatten().bincount(minlength=gate.num_experts).float()
        chosen = scores.gather(1, experts)
        weights = (chosen / (chosen.sum(-1, keepdim=True) + 1e-20) if self.sigmoid else chosen.softmax(-1)) * self.scale
        if self.capacity:
            weights = self.keep(weights, experts, gate.num_experts)
        elif self.real is not None:
            weights = weights * self.real.view(-1, 1)
        if self.padded:
            extra = torch.tensor([own + [int(experts[t, 0])] * (gate.num_experts - len(own)) for t, own in enumerate(self.filled)])
            weights, experts = torch.cat([weights, weights.new_zeros(extra.shape)], 1), torch.cat([experts, extra], 1)
        return logits, weights, experts

    def move_biases(self):
        """Wang et al. 2024: towards experts that got less than their share."""
        for gate, counts in self.counts.items():
            self.bias[gate] = self.bias[gate] + self.bias_rate * torch.sign(counts.mean() - counts)
        self.counts = {}


ROUTERS = {
    "capacity, smallest weights go": (dict(capacity=1.0), ["model.moe_expert_capacity_factor=1.0", "model.moe_token_drop_policy=probs"]),
    "capacity, last tokens go": (dict(capacity=0.75, by_position=True), ["model.moe_expert_capacity_factor=0.75", "model.moe_token_drop_policy=position"]),
    "padded to capacity": (dict(capacity=1.0, padded=True), ["model.moe_expert_capacity_factor=1.0", "model.moe_pad_expert_input_to_capacity=true"]),
    "sigmoid scores": (dict(sigmoid=True, scale=2.5), ["model.moe_router_score_function=sigmoid", "model.moe_router_topk_scaling_factor=2.5"]),
    "groups": (dict(groups=4, group_choices=2), ["model.moe_router_num_groups=4", "model.moe_router_group_topk=2"]),
    "groups of sigmoid scores with a capacity": (dict(sigmoid=True, groups=2, group_choices=1, capacity=1.5),
                                                 ["model.moe_router_score_function=sigmoid", "model.moe_router_num_groups=2", "model.moe_router_group_topk=1",
                                                  "model.moe_expert_capacity_factor=1.5"]),
}


@pytest.mark.parametrize("router", ROUTERS)
def test_routers_through_the_whole_model(router, tiny, tmp_path, monkeypatch):
    """With the z-loss in the objective and no balancing loss."""
    settings, keys = ROUTERS[router]
    folder, _ = tiny("qwen3_moe", num_hidden_layers=2)
    tokens, labels, mask = batch(8192)
    route = Settings(**settings)
    monkeypatch.setattr(transformers.models.qwen3_moe.modeling_qwen3_moe.Qwen3MoeTopKRouter, "forward", lambda gate, hidden: route(gate, hidden))
    model = load_transformers(folder)
    total = summed_loss(model(input_ids=tokens, use_cache=False).logits, labels, mask)
    z = sum(gate.logsumexp(-1).square().mean() for gate in route.logits)
    (total / mask.sum() + 0.01 * z).backward()
    assert (route.dropped > 0) == ("capacity" in settings)
    gradients = one_by_one({name: p.grad for name, p in model.named_parameters()})
    ours = Probe(folder, (tokens, labels, mask), tmp_path / "out", "model.moe_router_load_balancing_type=none", "model.moe_z_loss_coeff=0.01", *keys)
    assert abs(ours.loss - total.item()) <= 1e-5 * abs(total.item())
    assert_near(ours.gradients, gradients, 1e-5)


BALANCING = {
    "per micro-batch": ({}, "aux_loss", []),
    "per sequence": ({}, "seq_aux_loss", []),
    "one micro-batch of a step": ({}, "global_aux_loss", []),
    "sigmoid scores, per sequence": (dict(sigmoid=True), "seq_aux_loss", ["model.moe_router_score_function=sigmoid"]),
    "groups of sigmoid scores": (dict(sigmoid=True, groups=4, group_choices=2), "aux_loss",
                                 ["model.moe_router_score_function=sigmoid", "model.moe_router_num_groups=4", "model.moe_router_group_topk=2"]),
    "capacity": (dict(capacity=1.0), "aux_loss", ["model.moe_expert_capacity_factor=1.0", "model.moe_token_drop_policy=probs"]),
}


def normalised_sigmoid(logits):
    return logits.sigmoid() / (logits.sigmoid().sum(-1, keepdim=True) + 1e-20)


@pytest.mark.parametrize("padding", [False, True], ids=["", "padding"])
@pytest.mark.parametrize("case", BALANCING)
def test_balancing_losses_through_the_whole_model(case, padding, tiny, tmp_path, monkeypatch):
    """Every way to balance, with the z-loss, through several layers; a quarter of the tokens is padding, or none. What is counted for the balance does not know
    groups or capacities."""
    settings, kind, keys = BALANCING[case]
    folder, _ = tiny("qwen3_moe", num_hidden_layers=2)
    tokens, labels, mask = batch(8192)
    route = Settings(**settings, real=mask.bool() if padding else None)
    monkeypatch.setattr(transformers.models.qwen3_moe.modeling_qwen3_moe.Qwen3MoeTopKRouter, "forward", lambda gate, hidden: route(gate, hidden))
    model = load_transformers(folder)
    total = summed_loss(model(input_ids=tokens, use_cache=False).logits, labels, mask)
    balance = balancing_loss(route.logits, model.config.num_experts_per_tok, len(tokens) if kind == "seq_aux_loss" else 1, route.real,
                             normalised_sigmoid if route.sigmoid else softmax_scores)
    z = sum((gate if route.real is None else gate[route.real.flatten()]).logsumexp(-1).square().mean() for gate in route.logits)
    (total / mask.sum() + 0.5 * balance + 0.01 * z).backward()
    gradients = one_by_one({name: p.grad for name, p in model.named_parameters()})
    ours = Probe(folder, (tokens, labels, mask), tmp_path / "out", f"model.moe_router_load_balancing_type={kind}", "model.moe_aux_loss_coeff=0.5",
                 "model.moe_z_loss_coeff=0.01", *(["padding=masked"] if padding else []), *keys)
    assert abs(ours.loss - total.item()) <= 1e-5 * abs(total.item())
    assert_near(ours.gradients, gradients, 1e-5)
