"""A checkpoint trained by Ponte, opened by megatron-core itself: its model and its distributed optimizer take every value, and its loss on the next
step's samples is the one Ponte logged."""
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest
import torch
from training import ONE_THREAD, Training, load_checkpoint, series, write_corpus

# megatron-core's local layers keep the norms in front of a projection as modules of their own; a checkpoint names them as Transformer Engine fuses them.
NORMS = {"input_layernorm.weight": "self_attention.linear_qkv.layer_norm_weight", "pre_mlp_layernorm.weight": "mlp.linear_fc1.layer_norm_weight"}
STATES = {"param": "optimizer.state.param.", "exp_avg": "optimizer.state.exp_avg.", "exp_avg_sq": "optimizer.state.exp_avg_sq."}


def stored(tensors, prefix, name):
    layer = re.fullmatch(r"decoder\.layers\.(\d+)\.(.*)", name)
    if not layer:
        return tensors[prefix + name]
    return tensors[f"{prefix}decoder.layers.{NORMS.get(layer[2], layer[2])}"][int(layer[1])]


@pytest.mark.parametrize("precision, tied, tolerance", [("fp32", False, 1e-5), ("fp32", True, 1e-5), ("bf16_mixed", False, 1e-2)])
def test_megatron_core_goes_on_from_it(ponte, tiny, tmp_path, precision, tied, tolerance):
    folder, _ = tiny("qwen3", num_hidden_layers=2, tie_word_embeddings=tied)
    corpus = write_corpus(tmp_path / "corpus")
    training = Training(ponte, tmp_path, "--hf-model", folder, f"dataset.data_path=[{corpus}]", "dataset.split='100,0,0'", "train.train_iters=6",
                        "dataset.order=megatron",
                        "train.global_batch_size=4", "train.micro_batch_size=2", "model.seq_length=32", "optimizer.lr=1e-3", "optimizer.adam_eps=1e-7",
                        "scheduler.lr_decay_style=constant", "scheduler.lr_warmup_iters=2", "validation.eval_interval=0",
                        f"checkpoint.save={tmp_path / 'save'}", "checkpoint.save_interval=3",
                        *([] if precision == "fp32" else [f"mixed_precision={precision}"]))
    steps, _ = training.run()
    lines = ponte("data", "samples", "--data-path", corpus, "--split", "100,0,0", "--seq-length", 32, "--seed", 1234, "--num-samples", "24,0,0", "--first", 12,
                  "--count", 4, "--order", "megatron").out.splitlines()
    torch.save(torch.tensor([json.loads(line)["tokens"] for line in lines]), tmp_path / "tokens.pt")
    config = {**json.loads((folder / "config.json").read_text()), "dtype": "float32" if precision == "fp32" else "bfloat16"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    iteration = tmp_path / "save" / "iter_0000003"
    script = pathlib.Path(__file__).with_name("megatron_load.py")
    process = subprocess.run([sys.executable, script, iteration, tmp_path / "config.json", tmp_path / "tokens.pt", tmp_path / "out.pt"],
                             capture_output=True, text=True, env={**os.environ, **ONE_THREAD})
    assert process.returncode == 0, process.stderr[-4000:]
    megatron = torch.load(tmp_path / "out.pt", weights_only=False)

    tensors = load_checkpoint(iteration)
    for name, weight in megatron["weights"].items():
        assert torch.equal(weight, stored(tensors, "", name)), name
    values = 0
    for name, states in megatron["optimizer"].items():
        assert set(states) == set(STATES)
        for key, value in states.items():
            assert torch.equal(value, stored(tensors, STATES[key], name).flatten()), (name, key)
            values += 1
    assert values == sum(name.startswith("optimizer.") for name in tensors if "layers" not in name) + 2 * sum("layers" in name for name in tensors if
                                                                                                             name.startswith("optimizer."))
    assert megatron["iteration"] == 3
    for group in megatron["groups"]:
        assert (group["step"], group["lr"], group["eps"], tuple(group["betas"])) == (3, 1e-3, 1e-7, (0.9, 0.999))
    assert sorted(group["weight_decay"] for group in megatron["groups"]) == [0.0, 0.01]
    assert megatron["loss"] == pytest.approx(series(steps, "lm_loss")[4], rel=tolerance)
