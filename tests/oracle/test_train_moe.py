"""Training sparse models: fifty steps against a loop on transformers with Megatron's balancing loss, bitwise resume, and what the log says of the experts."""
import json
import math

import pytest
import torch
from test_moe_parity import balancing_loss
from test_train_reference import BATCH, BETAS, CLIP, DECAY, EPS, LENGTH, SETTINGS, STEPS, learning_rate
from test_train_resume import comparable
from training import Training, assert_same_tensors, load_checkpoint, series, write_corpus

COEFFICIENT = 0.02
SHAPE = dict(pad_token_id=None, num_hidden_layers=2, router_aux_loss_coef=COEFFICIENT)


def reference(model, samples, micro):
    """Plain AdamW on the mean over micro-batches of cross entropy and each layer's balancing loss."""
    parameters = dict(model.named_parameters())
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in parameters.items()}
    losses, norms, balances = [], [], []
    for step in range(STEPS):
        model.zero_grad()
        rows, entropy, balance = torch.tensor(samples[step * BATCH:(step + 1) * BATCH]), 0.0, 0.0
        for part in rows.split(micro):
            out = model(part[:, :-1], output_router_logits=True)
            cross_entropy = torch.nn.functional.cross_entropy(out.logits.flatten(0, 1), part[:, 1:].flatten())
            layers = balancing_loss(out.router_logits, model.config.num_experts_per_tok)
            share = len(part) / BATCH
            (share * (cross_entropy + COEFFICIENT * layers)).backward()
            entropy += share * cross_entropy.item()
            balance += share * layers.item() / len(out.router_logits)
        norm = math.sqrt(sum(p.grad.double().square().sum().item() for p in parameters.values()))
        scale, lr, t = min(1.0, CLIP / (norm + 1e-6)), learning_rate(step * BATCH), step + 1
        with torch.no_grad():
            for name, p in parameters.items():
                first, second = moments[name]
                g = p.grad * scale
                first.mul_(BETAS[0]).add_(g, alpha=1 - BETAS[0])
                second.mul_(BETAS[1]).addcmul_(g, g, value=1 - BETAS[1])
                update = (first / (1 - BETAS[0] ** t)) / ((second / (1 - BETAS[1] ** t)).sqrt() + EPS) + (DECAY if p.ndim > 1 else 0.0) * p
                p.sub_(lr * update)
        losses.append(entropy)
        norms.append(norm)
        balances.append(balance)
    return losses, norms, balances


def test_fifty_steps(ponte, tmp_path, tiny):
    import transformers
    folder, _ = tiny("qwen3_moe", **SHAPE)
    corpus = write_corpus(tmp_path / "corpus", vocab=511)
    training = Training(ponte, tmp_path, "--hf-model", folder, *SETTINGS, f"dataset.data_path=[{corpus}]", f"checkpoint.save={tmp_path / 'save'}")
    steps, result = training.run()
    assert "load_balancing_loss:" in result.out + result.err and "busiest expert:" in result.out + result.err
    printed = ponte("data", "samples", "--data-path", corpus, "--split", "100,0,0", "--seq-length", LENGTH, "--seed", 99, "--num-samples",
                    f"{STEPS * BATCH},0,0", "--count", STEPS * BATCH).out
    samples = [json.loads(line)["tokens"] for line in printed.splitlines()]
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, experts_implementation="eager").train()
    losses, norms, balances = reference(model, samples, micro=2)
    assert losses[-1] < losses[0] - 0.5, "the task must be learnable, or equal losses say little"
    for step, loss, norm, balance in zip(steps, losses, norms, balances):
        assert step["lm_loss"] == pytest.approx(loss, rel=1e-5), step["iteration"]
        assert step["grad_norm"] == pytest.approx(norm, rel=1e-4), step["iteration"]
        assert step["load_balancing_loss"] == pytest.approx(balance, rel=1e-5), step["iteration"]
        assert len(step["expert_load"]) == 2 and all(sum(layer) == pytest.approx(len(layer)) for layer in step["expert_load"])
    ponte("export", "--megatron-path", tmp_path / "save", "--hf-path", tmp_path / "hf")
    trained = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    for (name, ours), (_, theirs) in zip(trained.named_parameters(), model.named_parameters()):
        difference = (ours - theirs).norm() / theirs.norm()
        assert difference < 2e-4, (name, difference)


@pytest.mark.parametrize("precision", ["fp32", "bf16_mixed"])
def test_resumed_equals_uninterrupted(ponte, tmp_path, tiny, precision):
    folder, _ = tiny("qwen3_moe", **SHAPE)
    corpus = write_corpus(tmp_path / "corpus", documents=12, shortest=40, longest=60)
    settings = ["--hf-model", folder, f"dataset.data_path=[{corpus}]", "dataset.split='100,0,0'", "train.train_iters=6", "train.global_batch_size=4",
                "train.micro_batch_size=2", "model.seq_length=32", "optimizer.lr=1e-3", "validation.eval_interval=0", "checkpoint.save_interval=1",
                "model.moe_router_load_balancing_type=global_aux_loss"] + ([] if precision == "fp32" else [f"mixed_precision={precision}"])
    training = Training(ponte, tmp_path, *settings)
    whole, _ = training.run(f"checkpoint.save={tmp_path / 'whole'}", name="whole")
    part = tmp_path / "part"
    training.run(f"checkpoint.save={part}", "train.exit_interval=2", name="part")
    resumed, _ = training.run(f"checkpoint.save={part}", f"checkpoint.load={part}", name="part")
    assert comparable(resumed) == comparable(whole)
    ends = [load_checkpoint(f / "iter_0000006") for f in (tmp_path / "whole", part)]
    assert_same_tensors(*ends)
    assert tuple(ends[0]["optimizer.state.exp_avg.decoder.layers.mlp.experts.experts.linear_fc1.weight"].shape) == (2, 8, 96, 64)


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
