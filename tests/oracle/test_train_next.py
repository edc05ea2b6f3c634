"""Training Qwen3-Next: fifty steps against a loop on transformers, and bitwise resume."""
import json
import shutil

import pytest
import torch
from parity import load_transformers
from test_train_moe import COEFFICIENT, balanced
from test_train_reference import assert_same_course, reference, train_some_steps
from training import Training, expect_bitwise_resume, write_corpus

SHAPE = dict(pad_token_id=None, router_aux_loss_coef=COEFFICIENT)


def test_fifty_steps(ponte, tmp_path, tiny):
    folder, _ = tiny("qwen3_next", **SHAPE)
    steps, _, samples = train_some_steps(ponte, tmp_path, folder, "model.moe_router_load_balancing_type=aux_loss")
    model = load_transformers(folder, attention="sdpa")
    said, norms = reference(model, samples, balanced(model, micro=2))
    assert_same_course(steps, [entropy for entropy, _ in said], norms)


@pytest.mark.parametrize("precision", ["fp32", "bf16_mixed"])
def test_resumed_equals_uninterrupted(ponte, tmp_path, tiny, precision):
    folder, _ = tiny("qwen3_next", **SHAPE)
    end = expect_bitwise_resume(ponte, tmp_path, folder, precision)
    A_log = end["decoder.layers.0.self_attention.A_log"]
    assert A_log.dtype == torch.float32 and A_log.shape == (4,)


SHORT = ["train.train_iters=3", "train.global_batch_size=4", "train.micro_batch_size=2", "model.seq_length=32", "optimizer.lr=1e-3", "scheduler.lr_warmup_iters=0",
         "validation.eval_interval=0", "dataset.split='100,0,0'"]


@pytest.mark.parametrize("config", ["that counts prediction layers", "silent of them"])
def test_a_trained_head_is_exported_and_comes_back(ponte, golden, tmp_path, config):
    """Prediction layers change in training, are in what is exported to the bit, and their loss is in the log line, the JSON log and TensorBoard."""
    from test_convert_golden import assert_same, dcp_tensors, hf_tensors
    from test_tensorboard import curves
    source = golden / "qwen3_next_mtp/hf"
    if config == "silent of them":  # as in releases
        source = shutil.copytree(source, tmp_path / "source")
        document = json.loads((source / "config.json").read_text())
        del document["num_nextn_predict_layers"]
        (source / "config.json").write_text(json.dumps(document))
    corpus = write_corpus(tmp_path / "corpus", vocab=511)
    training = Training(ponte, tmp_path, "--hf-model", source, f"dataset.data_path=[{corpus}]", f"checkpoint.save={tmp_path / 'save'}", *SHORT,
                        f"logger.tensorboard_dir={tmp_path / 'tb'}", "logger.log_interval=1")
    steps, result = training.run()
    assert all(step["mtp_1 loss"] > 0 for step in steps) and result.out.count("mtp_1 loss:") + result.err.count("mtp_1 loss:") == 3
    assert [value for _, value in curves(tmp_path / "tb")["mtp_1 loss"]] == pytest.approx([step["mtp_1 loss"] for step in steps], rel=1e-6)
    ponte("export", "--megatron-path", tmp_path / "save", "--hf-path", tmp_path / "hf")
    before, after = hf_tensors(source), hf_tensors(tmp_path / "hf")
    assert before.keys() == after.keys()
    head = [name for name in before if name.startswith("mtp.")]
    assert head and all(not torch.equal(before[name].float(), after[name].float()) for name in head)
    ponte("import", "--hf-model", tmp_path / "hf", "--megatron-path", tmp_path / "again")
    # The output norms are stored smaller by one: a trained value has digits that one more loses.
    trained, again = ({name: tensor for name, tensor in dcp_tensors(tmp_path / folder).items() if not name.startswith("optimizer.") and "out_norm" not in name}
                      for folder in ("save", "again"))
    assert_same(again, trained)
    ponte("export", "--megatron-path", tmp_path / "again", "--hf-path", tmp_path / "hf_again")
    assert_same(hf_tensors(tmp_path / "hf_again"), after)


def test_an_export_is_the_trained_model(ponte, tmp_path, tiny):
    """In bf16 too, where one plus a trained output norm has more digits than 16 bits hold."""
    from test_convert_golden import assert_same, hf_tensors
    folder, _ = tiny("qwen3_next", **SHAPE)
    corpus = write_corpus(tmp_path / "corpus")
    run = tmp_path / "run"
    Training(ponte, tmp_path, "--hf-model", folder, f"dataset.data_path=[{corpus}]", f"checkpoint.save={run}", "checkpoint.save_hf=true",
             "mixed_precision=bf16_mixed", *SHORT).run()
    export = ponte("export", "--megatron-path", run, "--hf-path", tmp_path / "hf")
    ponte("verify", "--megatron-path", run, "--hf-model", tmp_path / "hf")
    tensors = hf_tensors(tmp_path / "hf")
    assert_same(hf_tensors(run / "iter_0000003/hf"), tensors)
    wide = {name for name, tensor in tensors.items() if tensor.dtype == torch.float32}
    norms = {f"model.layers.{layer}.linear_attn.{name}" for layer in range(3) for name in ("norm.weight", "A_log", "dt_bias")}
    assert wide == norms and "model.layers.0.linear_attn.norm.weight: torch.bfloat16 to torch.float32" in export.out + export.err


def test_the_model_decides_whether_there_is_a_head(ponte, golden):
    """--hf-model overrules the recipe's mtp_num_layers, both ways; the command line overrules both."""
    import yaml

    def layers(recipe, model, *more):
        shown = ponte("train", "--recipe", recipe, "--hf-model", golden / model / "hf", "--dry-run", "model.pipeline_model_parallel_size=1",
                      "model.expert_model_parallel_size=1", "model.tensor_model_parallel_size=1", "model.sequence_parallel=false",
                      "model.seq_length=64", *more)
        return yaml.safe_load(shown.out)["model"]["mtp_num_layers"]

    assert layers("qwen3_next_80b_a3b_pretrain_config", "qwen3_next_mtp") == 1
    assert layers("qwen3_next_80b_a3b_pretrain_config", "qwen3_next") is None
    assert layers("qwen3_next_3b_fineweb", "qwen3_next_mtp") == 1
    assert layers("qwen3_next_3b_fineweb", "qwen3_next_mtp", "model.mtp_num_layers=0") is None


def test_a_run_writes_usual_storage_and_remembers_its_models(ponte, tiny, tmp_path):
    """Experts that came packed: the folder a run writes beside its checkpoint has them one by one, an export has them as they came."""
    from test_convert_golden import assert_same, hf_tensors
    from test_convert_next import rewrite
    import shutil
    folder, model = tiny("qwen3_moe", pad_token_id=None)
    shutil.copytree(folder, tmp_path / "packed")

    def packed(tensors):
        for layer in range(model.config.num_hidden_layers):
            at = f"model.layers.{layer}.mlp.experts."
            experts = range(model.config.num_experts)
            take = lambda which: torch.stack([tensors.pop(f"{at}{e}.{which}_proj.weight") for e in experts])
            gate, up, down = take("gate"), take("up"), take("down")
            tensors |= {at + "gate_up_proj": torch.cat([gate, up], 1), at + "down_proj": down}

    rewrite(tmp_path / "packed", packed)
    corpus = write_corpus(tmp_path / "corpus")
    Training(ponte, tmp_path, "--hf-model", tmp_path / "packed", f"dataset.data_path=[{corpus}]", f"checkpoint.save={tmp_path / 'save'}",
             "checkpoint.save_hf=true", *SHORT).run()
    ponte("export", "--megatron-path", tmp_path / "save", "--hf-path", tmp_path / "exported")
    written, exported = hf_tensors(tmp_path / "save/iter_0000003/hf"), hf_tensors(tmp_path / "exported")
    assert written.keys() == hf_tensors(folder).keys() and exported.keys() == hf_tensors(tmp_path / "packed").keys()
    packed(written)
    assert_same(written, exported)


def test_prediction_layers_that_are_not_there(ponte, tmp_path, golden, tiny):
    """More than the model or the checkpoint holds are refused by the setting's name."""
    corpus = write_corpus(tmp_path / "corpus")
    start = ["train", f"dataset.data_path=[{corpus}]", *SHORT]
    for model, held in ((tiny("qwen3_next", **SHAPE)[0], 0), (golden / "qwen3_next_mtp/hf", 1)):
        refused = ponte(*start, "--hf-model", model, "mixed_precision=null", "model.params_dtype=torch.float32", "model.bf16=false",
                        f"model.mtp_num_layers={held + 1}", code=1).err
        assert f"error: {model}: it holds {held} prediction layers, model.mtp_num_layers asks for {held + 1}" in refused, refused
