"""Checkpoints in mcore-bridge's order of gated delta nets and gated attention: built here from Hugging Face's tensors the way that program does it, then read
by Ponte. Also which checkpoints say so, and which are refused."""
import argparse
import dataclasses
import json
import shutil

import pytest
import torch
import torch.distributed.checkpoint as dcp
from test_convert_golden import assert_same, dcp_tensors, hf_tensors, iteration
from test_convert_next import hybrid_model
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType
from training import Training, write_corpus

pytestmark = pytest.mark.fast


def by_key_head(parts, heads):
    return torch.cat([part.reshape(heads, -1, *part.shape[1:]) for part in parts], 1).flatten(0, 1)


def flat_parts(tensor, config):
    """query, key, value of a tensor that holds them one after another."""
    key, value = config["linear_num_key_heads"] * config["linear_key_head_dim"], config["linear_num_value_heads"] * config["linear_value_head_dim"]
    return tensor.split([key, key, value])


def attention(hf, prefix, groups):
    """Query heads, each with its gate behind it as q_proj has them, then key and value: group by group."""
    return torch.cat([hf[f"{prefix}{name}_proj.weight"].reshape(groups, -1, hf[f"{prefix}q_proj.weight"].shape[1]) for name in "qkv"], 1).flatten(0, 1)


def delta_net(hf, prefix, config, order):
    heads = config["linear_num_key_heads"]
    if f"{prefix}in_proj_qkv.weight" in hf:
        parts = [*flat_parts(hf[f"{prefix}in_proj_qkv.weight"], config), *(hf[f"{prefix}in_proj_{name}.weight"] for name in "zba")]
        qkvz, ba = by_key_head(parts[:4], heads), by_key_head(parts[4:], heads)
    else:
        qkvz, ba = hf[f"{prefix}in_proj_qkvz.weight"], hf[f"{prefix}in_proj_ba.weight"]
    out = {"in_proj.weight": by_key_head([qkvz, ba], heads)} if order == "joined" else {"in_proj_qkvz.weight": qkvz, "in_proj_ba.weight": ba}
    conv = hf[f"{prefix}conv1d.weight"]
    out["conv1d.weight"] = conv if order == "modules" else by_key_head(flat_parts(conv, config), heads)
    out["norm.weight" if order == "modules" else "out_norm.weight"] = hf[f"{prefix}norm.weight"]
    return out


def repacked(state, hf, config, order):
    """`state`, Megatron's tensors of the model, as mcore-bridge stores them."""
    state = dict(state)
    layers = [(f"decoder.layers.{i}.", f"model.layers.{i}.") for i in range(config["num_hidden_layers"])]
    layers += [("mtp.layers.0.transformer_layer.", "mtp.layers.0.")] if "mtp.fc.weight" in hf else []
    for native, name in layers:
        apart = order == "modules"
        if f"{name}self_attn.q_proj.weight" in hf:
            state[f"{native}self_attention.linear_qkv.weight"] = attention(hf, f"{name}self_attn.", config["num_key_value_heads"])
            norm = f"{native}self_attention.linear_qkv.layer_norm_weight"
        else:
            for key in [key for key in state if key.startswith((f"{native}self_attention.in_proj.weight.", f"{native}self_attention.conv1d."))]:
                del state[key]
            del state[f"{native}self_attention.out_norm.weight"]
            state |= {f"{native}self_attention.{key}": tensor for key, tensor in delta_net(hf, f"{name}linear_attn.", config, order).items()}
            norm, apart = f"{native}self_attention.in_proj.layer_norm_weight", order != "joined"
        if apart:
            state[f"{native}input_layernorm.weight"] = state.pop(norm)
        if order == "modules" and f"{native}mlp.linear_fc1.layer_norm_weight" in state:
            state[f"{native}pre_mlp_layernorm.weight"] = state.pop(f"{native}mlp.linear_fc1.layer_norm_weight")
    return state


class Pieces(DefaultSavePlanner):
    """Tensors in pieces of 5 rows, which fall across heads: more than any tensor-parallel size would cut."""

    def create_local_plan(self):
        plan, items = super().create_local_plan(), []
        for item in plan.items:
            data = item.tensor_data
            if data is None or not data.size or data.size[0] < 6 or data.size[0] > 400:
                items.append(item)
                continue
            for row in range(0, data.size[0], 5):
                offsets, sizes = [row] + [0] * (len(data.size) - 1), [min(5, data.size[0] - row), *data.size[1:]]
                chunk = ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes))
                items.append(WriteItem(MetadataIndex(item.index.fqn, torch.Size(offsets)), WriteItemType.SHARD,
                                       tensor_data=TensorWriteData(chunk, data.properties, data.size)))
        self.plan = dataclasses.replace(plan, items=items)
        return self.plan

    def resolve_data(self, item):
        if item.type != WriteItemType.SHARD:
            return super().resolve_data(item)
        chunk = item.tensor_data.chunk
        return self.state_dict[item.index.fqn][chunk.offsets[0]:chunk.offsets[0] + chunk.sizes[0]].clone()


def written(root, state, arguments=None):
    folder = root / "iter_0000003"
    folder.mkdir(parents=True)
    dcp.save(state, storage_writer=dcp.FileSystemWriter(folder), planner=Pieces(), no_dist=True)
    (root / "latest_checkpointed_iteration.txt").write_text("3")
    (folder / "metadata.json").write_text(json.dumps({"sharded_backend": "torch_dist", "sharded_backend_version": 1, "common_backend": "torch",
                                                      "common_backend_version": 1}))
    if arguments is not None:
        torch.save({"args": argparse.Namespace(**arguments), "checkpoint_version": 3.0, "iteration": 3}, folder / "common.pt")
    return root


def of_model(ponte, folder, root, order, arguments=None):
    """The model in `folder` as mcore-bridge's checkpoint in `root`."""
    ponte("import", "--hf-model", folder, "--megatron-path", root.parent / "native")
    config = json.loads((folder / "config.json").read_text())
    return written(root, repacked(dcp_tensors(root.parent / "native"), hf_tensors(folder), config, order), arguments)


SWIFT = {"tuner_type": "full", "model": "Qwen/Qwen3-Next-80B-A3B-Instruct", "tensor_model_parallel_size": 1, "no_save_optim": True}
MODELS = {
    "next": ("qwen3_next", {}),
    "next, layers with a dense MLP": ("qwen3_next", dict(mlp_only_layers=[1, 2])),
    "next, as many value as key heads": ("qwen3_next", dict(linear_num_value_heads=2)),
    "3.5": ("qwen3_5", {}),
}


@pytest.mark.parametrize("order", ["joined", "two", "modules"])
@pytest.mark.parametrize("which", MODELS)
def test_every_order_comes_out_as_hugging_face_has_it(ponte, tmp_path, which, order):
    kind, changes = MODELS[which]
    hybrid_model(tmp_path / "in", kind, **changes)
    root = of_model(ponte, tmp_path / "in", tmp_path / "swift", order, SWIFT)
    ponte("export", "--megatron-path", root, "--hf-path", tmp_path / "hf", "--hf-model", tmp_path / "in")
    assert_same(hf_tensors(tmp_path / "hf"), hf_tensors(tmp_path / "in"))
    assert "equal, bit for bit" in ponte("verify", "--hf-model", tmp_path / "in", "--megatron-path", root).out


@pytest.mark.parametrize("order", ["joined", "two", "modules"])
def test_prediction_layers_have_the_same_order(ponte, golden, tmp_path, order):
    source = golden / "qwen3_next_mtp"
    root = of_model(ponte, source / "hf", tmp_path / "swift", order)
    ponte("export", "--megatron-path", root, "--hf-path", tmp_path / "hf", "--hf-model", source / "hf")
    assert_same(hf_tensors(tmp_path / "hf"), hf_tensors(source / "hf"))


def test_convert_writes_megatrons_order(ponte, golden, tmp_path):
    """And what it wrote needs no --hf-model; the output norm's exact values are kept, as an import keeps them."""
    source = golden / "qwen3_next_mtp/hf"
    root = of_model(ponte, source, tmp_path / "swift", "joined", SWIFT)
    ponte("convert", "--megatron-path", root, "--save", tmp_path / "m", "--ckpt-format", "torch_dist", "--hf-model", source)
    assert_same(dcp_tensors(tmp_path / "m"), dcp_tensors(tmp_path / "native"))
    ponte("export", "--megatron-path", tmp_path / "m", "--hf-path", tmp_path / "hf")
    assert_same(hf_tensors(tmp_path / "hf"), hf_tensors(source))


@pytest.mark.parametrize("order", ["joined", "two", "modules"])
def test_a_live_model_reads_it(ponte, tmp_path, order):
    """Trained from that checkpoint, the first loss is the one from Hugging Face's files."""
    hybrid_model(tmp_path / "in", "qwen3_next", dtype="float32", std=0.1)
    root = of_model(ponte, tmp_path / "in", tmp_path / "swift", order, SWIFT)
    corpus = write_corpus(tmp_path / "corpus", vocab=130)
    training = Training(ponte, tmp_path, "--hf-model", tmp_path / "in", f"dataset.data_path=[{corpus}]", "dataset.split='100,0,0'", "model.seq_length=32",
                        "train.train_iters=1", "train.global_batch_size=2", "train.micro_batch_size=2", "validation.eval_interval=0", "optimizer.lr=1e-3")
    plain, other = training.run(name="plain")[0][0], training.run(f"checkpoint.pretrained_checkpoint={root}", name="other")[0][0]
    assert (other["lm_loss"], other["grad_norm"]) == (plain["lm_loss"], plain["grad_norm"])


# --- what a checkpoint says ---


def test_without_an_architecture_the_model_its_arguments_name_is_asked_for(ponte, golden, tmp_path):
    root = of_model(ponte, golden / "qwen3_next/hf", tmp_path / "swift", "joined", SWIFT)
    result = ponte("export", "--megatron-path", root, "--hf-path", tmp_path / "hf", code=1)
    assert "--hf-model Qwen/Qwen3-Next-80B-A3B-Instruct" in result.err and not (tmp_path / "hf").exists()


def attention_alone(tmp_path):
    """A gated model without a delta net: only the writer can say the order of its rows."""
    hybrid_model(tmp_path / "in", "qwen3_next", layer_types=["full_attention"] * 4)


@pytest.mark.parametrize("order, arguments", [("joined", SWIFT), ("joined", SWIFT | {"bridge_backend": "mcore-bridge"}),
                                              ("native", SWIFT | {"bridge_backend": "megatron-bridge"}), ("native", {"num_layers": 4})])
def test_without_a_delta_net_the_writers_arguments_decide(ponte, tmp_path, order, arguments):
    attention_alone(tmp_path)
    if order == "native":
        ponte("import", "--hf-model", tmp_path / "in", "--megatron-path", tmp_path / "native")
        root = written(tmp_path / "swift", dcp_tensors(tmp_path / "native"), arguments)
    else:
        root = of_model(ponte, tmp_path / "in", tmp_path / "swift", order, arguments)
    ponte("export", "--megatron-path", root, "--hf-path", tmp_path / "hf", "--hf-model", tmp_path / "in")
    assert_same(hf_tensors(tmp_path / "hf"), hf_tensors(tmp_path / "in"))


def test_without_either_it_is_refused(ponte, tmp_path):
    attention_alone(tmp_path)
    root = of_model(ponte, tmp_path / "in", tmp_path / "swift", "joined")
    result = ponte("export", "--megatron-path", root, "--hf-path", tmp_path / "hf", "--hf-model", tmp_path / "in", code=1)
    assert "whose order of rows nothing tells" in result.err and "Export the model to Hugging Face" in result.err and not (tmp_path / "hf").exists()


def test_in_fsdp_dtensor_the_order_is_megatrons(ponte, tmp_path):
    """No other program writes that container, so no arguments are wanted."""
    attention_alone(tmp_path)
    ponte("import", "--hf-model", tmp_path / "in", "--megatron-path", tmp_path / "fsdp", "--ckpt-format", "fsdp_dtensor")
    shutil.rmtree(tmp_path / "fsdp/iter_0000000/ponte")
    (tmp_path / "fsdp/iter_0000000/run_config.yaml").unlink()
    ponte("export", "--megatron-path", tmp_path / "fsdp", "--hf-path", tmp_path / "hf", "--hf-model", tmp_path / "in")
    assert_same(hf_tensors(tmp_path / "hf"), hf_tensors(tmp_path / "in"))


def test_an_older_version_with_larger_norms_is_refused(ponte, golden, tmp_path):
    """Before Qwen3NextRMSNorm: delta nets as modules, the norm of full attention inside linear_qkv, every norm larger by one."""
    source = golden / "qwen3_next/hf"
    ponte("import", "--hf-model", source, "--megatron-path", tmp_path / "native")
    state = repacked(dcp_tensors(tmp_path / "native"), hf_tensors(source), json.loads((source / "config.json").read_text()), "modules")
    full = next(key.removesuffix("linear_qkv.weight") for key in state if key.endswith("linear_qkv.weight"))
    state[f"{full}linear_qkv.layer_norm_weight"] = state.pop(full.removesuffix("self_attention.") + "input_layernorm.weight")
    root = written(tmp_path / "swift", {key: tensor + 1 if "norm" in key else tensor for key, tensor in state.items()}, SWIFT)
    result = ponte("export", "--megatron-path", root, "--hf-path", tmp_path / "hf", "--hf-model", source, code=1)
    assert "norms larger by one" in result.err and not (tmp_path / "hf").exists()


def test_a_model_with_a_vision_tower_is_refused(ponte, golden, tmp_path):
    source = golden / "qwen3_next/hf"
    ponte("import", "--hf-model", source, "--megatron-path", tmp_path / "native")
    root = written(tmp_path / "swift", {f"language_model.{key}": tensor for key, tensor in dcp_tensors(tmp_path / "native").items()}, SWIFT)
    result = ponte("export", "--megatron-path", root, "--hf-path", tmp_path / "hf", "--hf-model", source, code=1)
    assert "vision tower" in result.err and not (tmp_path / "hf").exists()


def test_an_optimizer_in_that_order_is_named_not_taken(ponte, golden, tmp_path):
    source = golden / "qwen3_next/hf"
    ponte("import", "--hf-model", source, "--megatron-path", tmp_path / "native")
    state = repacked(dcp_tensors(tmp_path / "native"), hf_tensors(source), json.loads((source / "config.json").read_text()), "joined")
    root = written(tmp_path / "swift", state | {f"optimizer.state.exp_avg.{key}": tensor.float() for key, tensor in state.items()})
    result = ponte("convert", "--megatron-path", root, "--save", tmp_path / "m", "--ckpt-format", "torch_dist", "--hf-model", source)
    assert "an optimizer's state in mcore-bridge's order" in result.err + result.out + (iteration(tmp_path / "m") / "ponte/manifest.json").read_text()
    assert_same(dcp_tensors(tmp_path / "m"), dcp_tensors(tmp_path / "native"))
