"""Training checkpoints of Megatron's other optimizers continue here: every value is the one the rank that wrote it had in memory."""
import json

import pytest
import torch

from training import Training, load_checkpoint, write_corpus

GOLDENS = [("qwen3_opt_dp_reshardable", "mcore", ["mixed_precision=bf16_mixed"], 54), ("qwen3_fsdp_opt", "fsdp", [], 54),
           ("qwen3_moe_opt_ep2_fully_reshardable", "mcore", ["mixed_precision=bf16_mixed"], 99),
           ("qwen3_opt_tp2dp2_fully_reshardable", "mcore", ["mixed_precision=bf16_mixed"], 108),
           ("qwen3_moe_opt_ep2_dp_reshardable", "mcore", ["mixed_precision=bf16_mixed"], 99),
           ("qwen3_next_opt_dp_reshardable", "mcore", ["mixed_precision=bf16_mixed"], 243)]


def place(name):
    """Recorded name to stored key, and the layer and expert inside it."""
    owner = 1 if ".ep1." in name else 0
    for head in ("module.module.module.", "tp0.pp0.ep0.", "tp0.pp0.ep1.", "tp1.pp0.ep0."):
        name = name.removeprefix(head)
    index, words = [], name.split(".")
    if words[:2] == ["decoder", "layers"]:
        index.append(int(words.pop(2)))
    name = ".".join(words)
    if "mlp.experts." in name:
        name, number = name.replace("mlp.experts.", "mlp.experts.experts.").rsplit("weight", 1)
        name, index = name + "weight", index + [2 * owner + int(number)]
    return name, tuple(index)


def whole(saved, kind, key, index):
    """A parameter of a stacked tensor, or of one for each layer; of segments that are tensors of their own, joined."""
    prefix = f"optimizer.state.{kind}."
    if prefix + key in saved:
        return saved[prefix + key][index]
    key = key.replace("decoder.layers.", f"decoder.layers.{index[0]}.")
    parts = [prefix + key + part for part in ("", ".query", ".key", ".value", ".z", ".beta", ".alpha") if prefix + key + part in saved]
    return torch.cat([saved[part][index[1:]] for part in parts])


def held(tensor, recorded, entry):
    """What the rank of a recorded name held of a whole parameter: rows, columns, or rows of both halves of a gated projection."""
    if list(tensor.shape) == entry.get("local_shape", list(tensor.shape)):
        return tensor
    rank = int(recorded[2])
    if "linear_fc1" in recorded:
        return torch.cat([half.chunk(2)[rank] for half in tensor.chunk(2)])
    return tensor.chunk(2, 1 if "linear_fc2" in recorded or "linear_proj" in recorded else 0)[rank]


def values_that_arrived(saved, folder):
    """How many of a golden's recorded tensors are in `saved`; all are, or this fails."""
    compared = 0
    for recorded, values in json.loads((folder / "optimizer_values.json").read_text())["params"].items():
        key, index = place(recorded)
        for kind in ("param", "exp_avg", "exp_avg_sq"):
            flat = held(whole(saved, kind, key, index), recorded, values).flatten().double()
            assert flat[:5].tolist() == values[kind]["first5"] and flat[-5:].tolist() == values[kind]["last5"], (recorded, kind)
            assert abs(flat.sum().item() - values[kind]["sum"]) <= 1e-12 * flat.abs().sum().item(), (recorded, kind)
            compared += 1
    return compared


@pytest.mark.parametrize("name, container, settings, count", GOLDENS, ids=[g[0] for g in GOLDENS])
def test_every_value_arrives(ponte, golden, tmp_path, name, container, settings, count):
    folder = golden / "trained" / name
    corpus = write_corpus(tmp_path / "corpus", vocab=96)
    model = folder / "hf" if (folder / "hf").exists() else golden / "trained/qwen3_opt_fully_reshardable/hf"  # the same, and only its configuration counts
    training = Training(ponte, tmp_path, "--hf-model", model, f"dataset.data_path=[{corpus}]", "dataset.split='100,0,0'", "train.train_iters=10",
                        "train.global_batch_size=2", "train.micro_batch_size=1", "model.seq_length=16", "optimizer.lr=1e-3", "validation.eval_interval=0",
                        "scheduler.use_checkpoint_opt_param_scheduler=true", f"checkpoint.load={folder / container}", f"checkpoint.save={tmp_path / 'run'}",
                        "train.iterations_to_skip=[4]", "train.exit_interval=4", *settings)
    _, result = training.run()
    assert "dataset.order: megatron" in result.err  # its positions count in Megatron's order
    assert "at iteration 3 of 10" in result.err and "weights and optimizer state" in result.err
    saved = load_checkpoint(tmp_path / "run" / "iter_0000004")
    assert values_that_arrived(saved, folder) == count
