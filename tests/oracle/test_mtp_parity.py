"""Multi-token prediction against the modules of transformers put together by Megatron's formula: every gradient of the joint objective, over one and two depths."""
import copy

import pytest
import torch
from parity import Probe, assert_near, batch, load_transformers, summed_loss
from test_convert_next import hf_tensors, hybrid_model, rewrite
from test_moe_parity import one_by_one
from transformers.models.qwen3_next import modeling_qwen3_next as qwen3_next

FACTOR = 0.1  # mtp_loss_scaling_factor, shared out over the depths


class Prediction(torch.nn.Module):
    """One depth. `config` has a single full-attention layer."""

    def __init__(self, config):
        super().__init__()
        H = config.hidden_size
        self.pre_fc_norm_embedding, self.pre_fc_norm_hidden, self.norm = (qwen3_next.Qwen3NextRMSNorm(H, eps=config.rms_norm_eps) for _ in range(3))
        self.fc = torch.nn.Linear(2 * H, H, bias=False)
        self.layer = qwen3_next.Qwen3NextDecoderLayer(config, 0)

    def forward(self, embedded, hidden, rotation, mask):
        x = self.fc(torch.cat([self.pre_fc_norm_embedding(embedded), self.pre_fc_norm_hidden(hidden)], -1))
        x = self.layer(x, position_embeddings=rotation, attention_mask=mask)
        return self.norm(x)


def file_names(depth, gradients):
    """Names in a checkpoint of what Prediction calls its own."""
    outer = "mtp." if depth == 0 else f"mtp.depth{depth}."
    return {(f"mtp.layers.{depth}." + name.removeprefix("layer.") if name.startswith("layer.") else outer + name): g for name, g in gradients.items()}


def make_model(folder, depths, **changes):
    model = hybrid_model(folder, dtype="float32", std=0.1, router_aux_loss_coef=0.0, **changes).float()
    config = copy.deepcopy(model.config)
    config.layer_types, config.num_hidden_layers, config.mlp_only_layers = ["full_attention"], 1, []
    config._attn_implementation, config._experts_implementation = "eager", "eager"
    torch.manual_seed(11)
    heads = torch.nn.ModuleList(Prediction(config) for _ in range(depths))
    with torch.no_grad():
        for p in heads.parameters():
            p.normal_(0, 0.1)
    state = {}
    for k, head in enumerate(heads):
        state |= file_names(k, one_by_one(dict(head.state_dict())))
    rewrite(folder, lambda tensors: tensors.update({name: t.clone() for name, t in state.items()}))
    return heads


def roll(t, k):
    """Left by k; what comes in from the right is zero."""
    return torch.cat([t[:, k:], torch.zeros_like(t[:, :k])], 1)


def reference(folder, heads, tokens, labels, mask, dtype):
    model = load_transformers(folder, dtype)
    heads = copy.deepcopy(heads).to(dtype)
    T = tokens.shape[1]
    hidden = model.model(input_ids=tokens, use_cache=False).last_hidden_state
    position_ids = torch.arange(T).unsqueeze(0)
    rotation = model.model.rotary_emb(hidden, position_ids)
    causal = torch.full((T, T), torch.finfo(dtype).min, dtype=dtype).triu(1)[None, None]

    def loss(h, k):
        return summed_loss(model.lm_head(h), roll(labels, k), roll(mask, k))

    objective = main = loss(hidden, 0)
    predicted = []
    for k, head in enumerate(heads, 1):
        hidden = head(model.model.embed_tokens(roll(tokens, k)), hidden, rotation, causal)
        predicted.append(loss(hidden, k))
        objective = objective + FACTOR / len(heads) * predicted[-1]
    (objective / mask.sum()).backward()
    gradients = one_by_one({name: p.grad for name, p in model.named_parameters()})
    for k, head in enumerate(heads):
        gradients |= one_by_one(file_names(k, {name: p.grad for name, p in head.named_parameters()}))
    return main.item(), gradients


@pytest.mark.parametrize("depths", [1, 2])
@pytest.mark.parametrize("changes", [{}, dict(tie_word_embeddings=True)], ids=["own head", "tied"])
def test_loss_and_every_gradient(depths, changes, tmp_path):
    heads = make_model(tmp_path / "hf", depths, **changes)
    data = batch(131, length=33)
    total, gradients = reference(tmp_path / "hf", heads, *data, torch.float64)
    ours = Probe(tmp_path / "hf", data, tmp_path / "out", "dtype=fp64")
    assert abs(ours.loss - total) <= 1e-6 * abs(total)  # the main loss alone
    assert_near(ours.gradients, gradients, 1e-5)  # transformers' norms and recurrence are fp32
    assert sum(name.startswith("mtp.") for name in gradients) > 20 * depths
