"""Training Qwen3-Next: fifty steps against a loop on transformers, and bitwise resume."""
import json

import pytest
import torch
from test_train_moe import COEFFICIENT, reference
from test_train_reference import BATCH, LENGTH, SETTINGS, STEPS
from test_train_resume import comparable
from training import Training, assert_same_tensors, load_checkpoint, write_corpus

SHAPE = dict(pad_token_id=None, router_aux_loss_coef=COEFFICIENT)


def test_fifty_steps(ponte, tmp_path, tiny):
    import transformers
    folder, _ = tiny("qwen3_next", **SHAPE)
    corpus = write_corpus(tmp_path / "corpus", vocab=511)
    training = Training(ponte, tmp_path, "--hf-model", folder, *SETTINGS, f"dataset.data_path=[{corpus}]", f"checkpoint.save={tmp_path / 'save'}",
                        "model.moe_router_load_balancing_type=aux_loss")
    steps, _ = training.run()
    printed = ponte("data", "samples", "--data-path", corpus, "--split", "100,0,0", "--seq-length", LENGTH, "--seed", 99, "--num-samples",
                    f"{STEPS * BATCH},0,0", "--count", STEPS * BATCH).out
    samples = [json.loads(line)["tokens"] for line in printed.splitlines()]
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, experts_implementation="eager").train()
    losses, norms, _ = reference(model, samples, micro=2)
    assert losses[-1] < losses[0] - 0.5, "the task must be learnable, or equal losses say little"
    for step, loss, norm in zip(steps, losses, norms, strict=True):
        assert step["lm_loss"] == pytest.approx(loss, rel=1e-5), step["iteration"]
        assert step["grad_norm"] == pytest.approx(norm, rel=1e-4), step["iteration"]


@pytest.mark.parametrize("precision", ["fp32", "bf16_mixed"])
def test_resumed_equals_uninterrupted(ponte, tmp_path, tiny, precision):
    folder, _ = tiny("qwen3_next", **SHAPE)
    corpus = write_corpus(tmp_path / "corpus", documents=12, shortest=40, longest=60)
    settings = ["--hf-model", folder, f"dataset.data_path=[{corpus}]", "dataset.split='100,0,0'", "train.train_iters=6", "train.global_batch_size=4",
                "train.micro_batch_size=2", "model.seq_length=32", "optimizer.lr=1e-3", "validation.eval_interval=0",
                "checkpoint.save_interval=1"] + ([] if precision == "fp32" else [f"mixed_precision={precision}"])
    training = Training(ponte, tmp_path, *settings)
    whole, _ = training.run(f"checkpoint.save={tmp_path / 'whole'}", name="whole")
    part = tmp_path / "part"
    training.run(f"checkpoint.save={part}", "train.exit_interval=2", name="part")
    resumed, _ = training.run(f"checkpoint.save={part}", f"checkpoint.load={part}", name="part")
    assert comparable(resumed) == comparable(whole)
    ends = [load_checkpoint(f / "iter_0000006") for f in (tmp_path / "whole", part)]
    assert_same_tensors(*ends)
    A_log = ends[0]["decoder.layers.0.self_attention.A_log"]
    assert A_log.dtype == torch.float32 and A_log.shape == (4,)
