"""`ponte train` against a loop written here on transformers and torch: the same start, the same samples, fifty steps."""
import json
import math

import pytest
import torch
from parity import load_transformers
from training import Training, series, write_corpus

STEPS, BATCH, LENGTH = 50, 4, 32
LR, MIN_LR, WARMUP, DECAY, CLIP, BETAS, EPS = 2e-3, 2e-4, 5, 0.1, 1.0, (0.9, 0.95), 1e-8
SETTINGS = (f"train.train_iters={STEPS}", f"train.global_batch_size={BATCH}", "train.micro_batch_size=2", f"model.seq_length={LENGTH}",
            f"optimizer.lr={LR}", f"optimizer.min_lr={MIN_LR}", f"optimizer.weight_decay={DECAY}", f"optimizer.clip_grad={CLIP}",
            f"optimizer.adam_beta1={BETAS[0]}", f"optimizer.adam_beta2={BETAS[1]}", f"optimizer.adam_eps={EPS}", "scheduler.lr_decay_style=cosine",
            f"scheduler.lr_warmup_iters={WARMUP}", "validation.eval_interval=0", "logger.log_interval=10", "dataset.split='100,0,0'", "rng.seed=99")


def learning_rate(samples):
    """Megatron's cosine with warm-up; the unit is samples."""
    warmup, end = WARMUP * BATCH, STEPS * BATCH
    if samples <= warmup:
        return LR * samples / warmup
    if samples > end:
        return MIN_LR
    return MIN_LR + 0.5 * (math.cos(math.pi * (samples - warmup) / (end - warmup)) + 1.0) * (LR - MIN_LR)


def reference(model, samples, backward, decayed=lambda name, p: p.ndim > 1):
    """Plain AdamW written out in the order of Megatron's fused one. backward(rows) leaves a step's gradients in the model; returns what it says of each step,
    and the gradients' norms."""
    parameters = dict(model.named_parameters())
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in parameters.items()}
    said, norms = [], []
    for step in range(len(samples) // BATCH):
        model.zero_grad()
        said.append(backward(torch.tensor(samples[step * BATCH:(step + 1) * BATCH])))
        norms.append(math.sqrt(sum(p.grad.double().square().sum().item() for p in parameters.values())))
        scale = min(1.0, CLIP / (norms[-1] + 1e-6))
        lr, t = learning_rate(step * BATCH), step + 1
        with torch.no_grad():
            for name, p in parameters.items():
                first, second = moments[name]
                g = p.grad * scale
                first.mul_(BETAS[0]).add_(g, alpha=1 - BETAS[0])
                second.mul_(BETAS[1]).addcmul_(g, g, value=1 - BETAS[1])
                decay = DECAY if decayed(name, p) else 0.0
                update = (first / (1 - BETAS[0] ** t)) / ((second / (1 - BETAS[1] ** t)).sqrt() + EPS) + decay * p
                p.sub_(lr * update)
    return said, norms


def train_some_steps(ponte, tmp_path, folder, *settings, count=STEPS):
    """The first steps of fifty, the run's output, and the samples they were taken on."""
    corpus = write_corpus(tmp_path / "corpus", vocab=511)
    training = Training(ponte, tmp_path, "--hf-model", folder, *SETTINGS, f"dataset.data_path=[{corpus}]", "dataset.order=megatron",
                        f"checkpoint.save={tmp_path / 'save'}", f"train.exit_interval={count}", *settings)
    steps, result = training.run()
    assert [s["iteration"] for s in steps] == list(range(1, count + 1))
    printed = ponte("data", "samples", "--data-path", corpus, "--split", "100,0,0", "--seq-length", LENGTH, "--seed", 99, "--num-samples",
                    f"{STEPS * BATCH},0,0", "--count", count * BATCH, "--order", "megatron").out
    return steps, result, [json.loads(line)["tokens"] for line in printed.splitlines()]


def assert_same_course(steps, losses, norms):
    assert losses[-1] < losses[0] - 0.5, "the task must be learnable, or equal losses say little"
    for step, loss, norm in zip(steps, losses, norms, strict=True):
        assert step["lm_loss"] == pytest.approx(loss, rel=1e-5), step
        assert step["grad_norm"] == pytest.approx(norm, rel=1e-4), step


def assert_weights_near(ponte, tmp_path, model):
    """The run's weights after its last step, through the export."""
    ponte("export", "--megatron-path", tmp_path / "save", "--hf-path", tmp_path / "hf")
    trained = type(model).from_pretrained(tmp_path / "hf", dtype=torch.float32)
    for (name, ours), (_, theirs) in zip(trained.named_parameters(), model.named_parameters()):
        difference = (ours - theirs).norm() / theirs.norm()
        assert difference < 2e-4, (name, difference)


# Without a padding id: torch's embedding would leave that row's gradient out.
CASES = [("qwen3", dict(pad_token_id=None), False), ("qwen3", dict(pad_token_id=None, vocab_size=8191, tie_word_embeddings=True), True),
         ("qwen2", dict(pad_token_id=None, tie_word_embeddings=True), False)]


@pytest.mark.parametrize("kind, changes, qk_decay", CASES)
def test_fifty_steps(ponte, tmp_path, tiny, kind, changes, qk_decay):
    folder, _ = tiny(kind, **changes)
    steps, _, samples = train_some_steps(ponte, tmp_path, folder, f"optimizer.apply_wd_to_qk_layernorm={str(qk_decay).lower()}")
    model = load_transformers(folder, attention="sdpa")

    def backward(rows):
        loss = torch.nn.functional.cross_entropy(model(rows[:, :-1]).logits.flatten(0, 1), rows[:, 1:].flatten())
        loss.backward()
        return loss.item()

    decayed = lambda name, p: p.ndim > 1 or (qk_decay and ("q_norm" in name or "k_norm" in name))
    assert_same_course(steps, *reference(model, samples, backward, decayed))
    for step in steps:
        assert step["learning_rate"] == pytest.approx(learning_rate(step["iteration"] * BATCH), rel=1e-12), step
        assert step["consumed_samples"] == step["iteration"] * BATCH
    assert_weights_near(ponte, tmp_path, model)


def test_the_step_does_not_depend_on_the_micro_batches(ponte, tmp_path, tiny):
    """One normalisation over the valid tokens of the whole step; eod_mask_loss makes their number differ from row to row."""
    folder, _ = tiny("qwen3")
    corpus = write_corpus(tmp_path / "corpus", vocab=8192, documents=60)
    runs = {}
    for micro in (1, 2, 4, 8):
        training = Training(ponte, tmp_path, "--hf-model", folder, *SETTINGS, f"dataset.data_path=[{corpus}]", "dataset.eod_mask_loss=true",
                            "train.train_iters=4", "train.global_batch_size=8", f"train.micro_batch_size={micro}", "scheduler.lr_warmup_iters=0")
        runs[micro], _ = training.run(name=f"micro{micro}")
    for micro in (1, 2, 4):
        for key in ("lm_loss", "grad_norm"):
            for iteration, value in series(runs[8], key).items():
                assert series(runs[micro], key)[iteration] == pytest.approx(value, rel=2e-6), (micro, key, iteration)


def test_samples_without_their_extra_token(ponte, tmp_path, tiny):
    """The last input of each sample has no label then: the first loss is that over the others."""
    folder, _ = tiny("qwen3")
    corpus = write_corpus(tmp_path / "corpus", vocab=511)
    training = Training(ponte, tmp_path, "--hf-model", folder, *SETTINGS, f"dataset.data_path=[{corpus}]", "dataset.order=megatron", "train.exit_interval=1",
                        "dataset.add_extra_token_to_sequence=false")
    (step,), _ = training.run()
    printed = ponte("data", "samples", "--data-path", corpus, "--split", "100,0,0", "--seq-length", LENGTH, "--seed", 99, "--num-samples", f"{STEPS * BATCH},0,0",
                    "--count", BATCH, "--order", "megatron", "--no-extra-token", "--pad-id", 8189).out
    rows = torch.tensor([json.loads(line)["tokens"][:-1] for line in printed.splitlines()])
    with torch.no_grad():
        logits = load_transformers(folder)(rows[:, :-1]).logits
    assert step["lm_loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()).item(), rel=1e-5)
