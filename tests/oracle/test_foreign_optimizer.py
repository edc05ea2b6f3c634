"""Training checkpoints of Megatron's other optimizers continue here: every value is the one the rank that wrote it had in memory."""
import dataclasses
import json
import pickle
import re
import shutil

import pytest
import torch

from training import ONE_THREAD, Training, load_checkpoint, write_corpus

GOLDENS = [("qwen3_opt_dp_reshardable", "mcore", ["mixed_precision=bf16_mixed"], 54), ("qwen3_fsdp_opt", "fsdp", [], 54),
           ("qwen3_moe_opt_ep2_fully_reshardable", "mcore", ["mixed_precision=bf16_mixed"], 99),
           ("qwen3_opt_tp2dp2_fully_reshardable", "mcore", ["mixed_precision=bf16_mixed"], 81),
           ("qwen3_moe_opt_ep2_dp_reshardable", "mcore", ["mixed_precision=bf16_mixed"], 99),
           ("qwen3_next_opt_dp_reshardable", "mcore", ["mixed_precision=bf16_mixed"], 243),
           ("qwen3_opt_tp2pp2dp2_dp_reshardable", "mcore", ["mixed_precision=bf16_mixed"], 117),
           ("qwen3_moe_opt_tp2pp2vp2ep2_dp_reshardable", "mcore", ["mixed_precision=bf16_mixed"], 219),
           ("qwen3_moe_opt_pp2ep2_dp_reshardable", "mcore", ["mixed_precision=bf16_mixed"], 189),
           ("qwen3_next_mtp_opt_tp2pp2_dp_reshardable", "mcore", ["mixed_precision=bf16_mixed", "model.mtp_num_layers=1"], 315),
           ("qwen3_moe_opt_ep2_expert_bias", "mcore", ["mixed_precision=bf16_mixed", "model.moe_router_enable_expert_bias=true",
                                                       "model.moe_router_score_function=sigmoid"], 99)]
FLAT = [(name, count) for name, _, _, count in GOLDENS if name.endswith("_dp_reshardable")]


def place(name):
    """Recorded name to stored key, and the layer and expert inside it."""
    owner = 1 if ".ep1." in name else 0
    name = re.sub(r"^(module\.module\.module\.|tp\d\.(pp\d\.ep\d\.)?)", "", name)
    index, words = [], name.split(".")
    if words[:2] == ["decoder", "layers"]:
        index.append(int(words.pop(2)))
    name = ".".join(words)
    if "mlp.experts." in name:
        name, number = name.replace("mlp.experts.", "mlp.experts.experts.").rsplit("weight", 1)
        name, index = name + "weight", index + [2 * owner + int(number)]
    return name, tuple(index)


def stored_parts(saved, kind, key, index):
    """A parameter of a stacked tensor, or of one for each layer; of segments that are tensors of their own, each of them."""
    prefix = f"optimizer.state.{kind}."
    if prefix + key in saved:
        return [saved[prefix + key][index]]
    if index:
        key = key.replace("decoder.layers.", f"decoder.layers.{index[0]}.")
    parts = [prefix + key + part for part in ("", ".query", ".key", ".value", ".z", ".beta", ".alpha") if prefix + key + part in saved]
    return [saved[part][index[1:]] for part in parts]


def held(parts, recorded, entry):
    """What the rank of a recorded name held of a whole parameter: rows of each part and of both halves of a gated projection, or columns."""
    shape, rank = entry.get("local_shape", list(torch.cat(parts).shape)), int(recorded[2]) if recorded.startswith("tp") else 0
    if list(torch.cat(parts).shape) == shape:
        return torch.cat(parts)
    if "linear_fc1" in recorded:
        parts = parts[0].chunk(2)
    return torch.cat([part.chunk(2, 1 if any(row in recorded for row in ("linear_fc2", "linear_proj", "out_proj")) else 0)[rank] for part in parts])


def values_that_arrived(saved, folder):
    """How many of a golden's recorded tensors are in `saved`; all are, or this fails."""
    compared = 0
    for recorded, values in json.loads((folder / "optimizer_values.json").read_text())["params"].items():
        key, index = place(recorded)
        for kind in ("param", "exp_avg", "exp_avg_sq"):
            flat = held(stored_parts(saved, kind, key, index), recorded, values).flatten().double()
            assert flat[:5].tolist() == values[kind]["first5"] and flat[-5:].tolist() == values[kind]["last5"], (recorded, kind)
            assert abs(flat.sum().item() - values[kind]["sum"]) <= 1e-12 * flat.abs().sum().item(), (recorded, kind)
            compared += 1
    return compared


@pytest.mark.parametrize("name, container, settings, count", GOLDENS, ids=[g[0] for g in GOLDENS])
def test_every_value_arrives(ponte, golden, tmp_path, name, container, settings, count):
    folder = golden / "trained" / name
    corpus = write_corpus(tmp_path / "corpus", vocab=96)
    training = Training(ponte, tmp_path, "--hf-model", folder / "hf", f"dataset.data_path=[{corpus}]", "dataset.split='100,0,0'", "train.train_iters=10",
                        "train.global_batch_size=2", "train.micro_batch_size=1", "model.seq_length=16", "optimizer.lr=1e-3", "validation.eval_interval=0",
                        "scheduler.use_checkpoint_opt_param_scheduler=true", f"checkpoint.load={folder / container}", f"checkpoint.save={tmp_path / 'run'}",
                        "train.iterations_to_skip=[4]", "train.exit_interval=4", *settings)
    _, result = training.run()
    assert "dataset.order: megatron" in result.err  # its positions count in Megatron's order
    assert "at iteration 3 of 10" in result.err and "weights and optimizer state" in result.err
    saved = load_checkpoint(tmp_path / "run" / "iter_0000004")
    assert values_that_arrived(saved, folder) == count
    if name.endswith("_expert_bias"):  # in no bucket, for no optimizer moves it
        assert saved["decoder.layers.mlp.router.expert_bias"].tolist() == torch.tensor([[layer + expert * 0.01 for expert in range(4)] for layer in range(2)]).tolist()


@pytest.mark.parametrize("name, count", FLAT, ids=[name for name, _ in FLAT])
def test_flat_state_becomes_any_layouts(ponte, golden, tmp_path, name, count):
    """`convert` makes fully_reshardable of it; the weights stay as they are, a vocabulary without its padding."""
    folder = golden / "trained" / name
    ponte("convert", "--megatron-path", folder / "mcore", "--save", tmp_path / "m", "--ckpt-format", "torch_dist")
    saved, source = load_checkpoint(tmp_path / "m/iter_0000003"), load_checkpoint(folder / "mcore/iter_0000003")
    assert values_that_arrived(saved, folder) == count
    weights = {key: tensor for key, tensor in source.items() if "optimizer" not in key}
    assert weights and all(torch.equal(saved[key], tensor[:len(saved[key])]) for key, tensor in weights.items())
    state = torch.load(tmp_path / "m/iter_0000003/common.pt", weights_only=False)["optimizer"]
    assert state["param_state_sharding_type"] == "fully_reshardable" and {group["step"] for group in state["optimizer"]["param_groups"]} == {3.0}


REFUSED = [("exchanged", r"dp_group_idx_(0|1)\.gbuf", lambda rank: f"dp_group_idx_{1 - int(rank)}.gbuf", "does not round to its weight"),
           ("a rank missing", r"dp_group_idx_(2)\.", lambda rank: f"dp_group_idx_{rank}9.", "model-parallel rank 2 of the flat optimizer state is missing")]


@pytest.mark.parametrize("what, pattern, other, message", REFUSED, ids=[row[0] for row in REFUSED])
def test_flat_state_of_other_ranks_is_refused_before_anything_is_written(ponte, golden, tmp_path, what, pattern, other, message):
    """Megatron's own files, but what `.metadata` says of which rank wrote them."""
    folder = shutil.copytree(golden / "trained/qwen3_opt_tp2pp2dp2_dp_reshardable", tmp_path / "golden")
    path = folder / "mcore/iter_0000003/.metadata"
    metadata = pickle.loads(path.read_bytes())
    renamed = lambda name: re.sub(pattern, lambda found: other(found[1]), name)  # noqa: E731
    metadata.state_dict_metadata = {renamed(name): value for name, value in metadata.state_dict_metadata.items()}
    metadata.storage_data = {dataclasses.replace(index, fqn=renamed(index.fqn)): value for index, value in metadata.storage_data.items()}
    metadata.planner_data = None
    path.write_bytes(pickle.dumps(metadata, protocol=2))
    result = ponte("convert", "--megatron-path", folder / "mcore", "--save", tmp_path / "m", "--ckpt-format", "torch_dist", code=1)
    assert message in result.err
    assert [path.name for path in tmp_path.iterdir()] == ["golden"]


def test_ranks_of_another_layout_go_on_from_flat_state(ponte, golden, tmp_path):
    """Four ranks, laid out otherwise than the four that wrote it; each takes its shards out of the buckets."""
    name = "qwen3_moe_opt_tp2pp2vp2ep2_dp_reshardable"
    folder = golden / "trained" / name
    corpus = write_corpus(tmp_path / "corpus", vocab=96)
    ponte("train", "--nproc-per-node", "4", "--hf-model", folder / "hf", f"dataset.data_path=[{corpus}]", "dataset.split='100,0,0'", "train.train_iters=10",
          "train.global_batch_size=2", "train.micro_batch_size=1", "model.seq_length=16", "optimizer.lr=1e-3", "validation.eval_interval=0",
          "scheduler.use_checkpoint_opt_param_scheduler=true", f"checkpoint.load={folder / 'mcore'}", f"checkpoint.save={tmp_path / 'run'}",
          "train.iterations_to_skip=[4]", "train.exit_interval=4", "mixed_precision=bf16_mixed", "model.tensor_model_parallel_size=4", "model.sequence_parallel=true",
          "model.expert_tensor_parallel_size=1", "model.expert_model_parallel_size=4", env=ONE_THREAD)
    assert values_that_arrived(load_checkpoint(tmp_path / "run" / "iter_0000004"), folder) == dict(FLAT)[name]
