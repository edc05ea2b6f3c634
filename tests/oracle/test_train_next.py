"""Training Qwen3-Next: fifty steps against a loop on transformers, and bitwise resume."""
import pytest
import torch
from parity import load_transformers
from test_train_moe import COEFFICIENT, balanced
from test_train_reference import assert_same_course, reference, train_fifty_steps
from training import expect_bitwise_resume

SHAPE = dict(pad_token_id=None, router_aux_loss_coef=COEFFICIENT)


def test_fifty_steps(ponte, tmp_path, tiny):
    folder, _ = tiny("qwen3_next", **SHAPE)
    steps, _, samples = train_fifty_steps(ponte, tmp_path, folder, "model.moe_router_load_balancing_type=aux_loss")
    model = load_transformers(folder, attention="sdpa")
    said, norms = reference(model, samples, balanced(model, micro=2))
    assert_same_course(steps, [entropy for entropy, _ in said], norms)


@pytest.mark.parametrize("precision", ["fp32", "bf16_mixed"])
def test_resumed_equals_uninterrupted(ponte, tmp_path, tiny, precision):
    folder, _ = tiny("qwen3_next", **SHAPE)
    end = expect_bitwise_resume(ponte, tmp_path, folder, precision)
    A_log = end["decoder.layers.0.self_attention.A_log"]
    assert A_log.dtype == torch.float32 and A_log.shape == (4,)
