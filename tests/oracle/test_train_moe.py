"""Training sparse models: fifty steps against a loop on transformers with Megatron's balancing loss, bitwise resume, and what the log says of the experts."""
import pytest
import torch
from parity import load_transformers
from test_moe_parity import balancing_loss
from test_train_reference import BATCH, SETTINGS, assert_same_course, assert_weights_near, reference, train_fifty_steps
from training import Training, expect_bitwise_resume, series, write_corpus

COEFFICIENT = 0.02
SHAPE = dict(pad_token_id=None, num_hidden_layers=2, router_aux_loss_coef=COEFFICIENT)


def balanced(model, micro):
    """Backward of the mean over micro-batches of cross entropy and each layer's balancing loss; says both."""

    def backward(rows):
        entropy, balance = 0.0, 0.0
        for part in rows.split(micro):
            out = model(part[:, :-1], output_router_logits=True)
            cross_entropy = torch.nn.functional.cross_entropy(out.logits.flatten(0, 1), part[:, 1:].flatten())
            layers = balancing_loss(out.router_logits, model.config.num_experts_per_tok)
            share = len(part) / BATCH
            (share * (cross_entropy + COEFFICIENT * layers)).backward()
            entropy += share * cross_entropy.item()
            balance += share * layers.item() / len(out.router_logits)
        return entropy, balance

    return backward


def test_fifty_steps(ponte, tmp_path, tiny):
    folder, _ = tiny("qwen3_moe", **SHAPE)
    steps, result, samples = train_fifty_steps(ponte, tmp_path, folder)
    assert "load_balancing_loss:" in result.out + result.err and "busiest expert:" in result.out + result.err
    model = load_transformers(folder, attention="sdpa")
    said, norms = reference(model, samples, balanced(model, micro=2))
    assert_same_course(steps, [entropy for entropy, _ in said], norms)
    for step, (_, balance) in zip(steps, said):
        assert step["load_balancing_loss"] == pytest.approx(balance, rel=1e-5), step["iteration"]
        assert len(step["expert_load"]) == 2 and all(sum(layer) == pytest.approx(len(layer)) for layer in step["expert_load"])
    assert_weights_near(ponte, tmp_path, model)


@pytest.mark.parametrize("precision", ["fp32", "bf16_mixed"])
def test_resumed_equals_uninterrupted(ponte, tmp_path, tiny, precision):
    folder, _ = tiny("qwen3_moe", **SHAPE)
    end = expect_bitwise_resume(ponte, tmp_path, folder, precision, "model.moe_router_load_balancing_type=global_aux_loss")
    assert tuple(end["optimizer.state.exp_avg.decoder.layers.mlp.experts.experts.linear_fc1.weight"].shape) == (2, 8, 96, 64)


def test_sequence_balancing_does_not_depend_on_the_micro_batches(ponte, tmp_path, tiny):
    folder, _ = tiny("qwen3_moe", **{**SHAPE, "router_aux_loss_coef": 1.0})
    corpus = write_corpus(tmp_path / "corpus", vocab=8192, documents=60)
    runs = {}
    for micro in (1, 4):
        training = Training(ponte, tmp_path, "--hf-model", folder, *SETTINGS, f"dataset.data_path=[{corpus}]", "train.train_iters=3",
                            f"train.micro_batch_size={micro}", "scheduler.lr_warmup_iters=0", "model.moe_router_load_balancing_type=seq_aux_loss",
                            "model.moe_z_loss_coeff=0.1", "checkpoint.save=")
        runs[micro], _ = training.run(name=f"micro{micro}")
    for key in ("lm_loss", "grad_norm", "load_balancing_loss", "z_loss"):
        for iteration, value in series(runs[4], key).items():
            assert series(runs[1], key)[iteration] == pytest.approx(value, rel=5e-6), (key, iteration)
