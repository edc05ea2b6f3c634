"""What surrounds the steps of `ponte train`: validation, which checkpoints stay, the files in them, starting points, and errors that say what is wrong."""
import json
import re

import pytest
import torch

from training import Training, load_checkpoint, write_corpus


@pytest.fixture
def training(ponte, tmp_path, tiny):
    folder, _ = tiny("qwen3")
    corpus = write_corpus(tmp_path / "corpus", documents=60)
    return Training(ponte, tmp_path, "--hf-model", folder, f"dataset.data_path=[{corpus}]", "dataset.split='80,20,0'", "train.train_iters=8",
                    "train.global_batch_size=4", "train.micro_batch_size=2", "model.seq_length=32", "optimizer.lr=1e-3", "optimizer.min_lr=1e-3",
                    "scheduler.lr_decay_style=constant", "scheduler.lr_warmup_iters=0", "validation.eval_interval=0")


def test_validation_and_which_checkpoints_stay(training, tmp_path, ponte):
    save = tmp_path / "save"
    # A rate far too high after step 4, so that the best validation lies in the middle.
    steps, result = training.run("validation.eval_interval=2", "validation.eval_iters=3", f"checkpoint.save={save}", "checkpoint.save_interval=1",
                                 "checkpoint.most_recent_k=2", "checkpoint.save_best=true", "optimizer.lr=0.5", "optimizer.min_lr=0",
                                 "scheduler.lr_decay_style=linear", "scheduler.lr_warmup_iters=7", "optimizer.clip_grad=0")
    losses = {s["iteration"]: s["val_loss"] for s in steps if "val_loss" in s}
    assert sorted(losses) == [2, 4, 6, 8]
    best = min(losses, key=losses.get)
    kept = sorted(int(p.name[5:]) for p in save.glob("iter_*"))
    assert kept == sorted({best, 7, 8})
    assert best < 7, "the case must tell the best from the newest"
    assert json.loads((save / "iter_0000008" / "ponte" / "run.json").read_text())["best_validation"] == {"iteration": best, "val_loss": losses[best]}
    assert len(re.findall(r"validation loss at iteration \d+ \| lm loss value: \d\.\d{6}E[+-]\d\d \| lm loss PPL", result.err)) == 4


def test_a_validation_loss_that_is_not_a_number_is_never_the_best(training, tmp_path):
    save = tmp_path / "save"
    steps, _ = training.run("validation.eval_interval=1", "validation.eval_iters=1", f"checkpoint.save={save}", "checkpoint.save_best=true", "optimizer.lr=1e30",
                            "optimizer.min_lr=0", "train.train_iters=3", "train.check_for_nan_in_loss=false")
    losses = {s["iteration"]: s["val_loss"] for s in steps}
    assert None in losses.values(), losses  # NaN, in JSON
    best = json.loads((save / "iter_0000003" / "ponte" / "run.json").read_text())["best_validation"]
    assert best is None or best["val_loss"] is not None, (best, losses)


def test_a_finished_run_stays_as_it_is(training, tmp_path):
    corpus = training.settings[2].removeprefix("dataset.data_path=[").removesuffix("]")
    settings = (f"dataset.data_path=[1,{corpus},1,{corpus}]", "validation.eval_interval=3", "validation.eval_iters=2", f"checkpoint.save={tmp_path / 'save'}",
                f"checkpoint.load={tmp_path / 'save'}")
    steps, _ = training.run(*settings)
    assert [s["iteration"] for s in steps if "val_loss" in s] == [3, 6, 8]  # every sample a blend of this size has
    (tmp_path / "save" / "latest_checkpointed_iteration.txt").unlink()  # as if stopped between the checkpoint and its tracker
    again, result = training.run(*settings)
    assert again == steps and "nothing to do" in result.err and "validation loss" not in result.err, result.err
    _, one = training.run(*settings, "validation.skip_train=true")
    _, two = training.run(*settings, "validation.skip_train=true")
    (line,) = [line for line in one.err.splitlines() if "validation loss at iteration 8" in line]
    assert line in two.err, two.err


def test_log_line(training):
    _, result = training.run("logger.log_interval=4", "optimizer.log_num_zeros_in_grad=true", "logger.log_params_norm=true")
    lines = [line for line in result.err.splitlines() if " iteration " in line and "consumed samples" in line]
    pattern = (r" \[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\] iteration +\d+/ +8 \| consumed samples: +\d+ \| elapsed time per iteration \(ms\): [\d.]+ \| batch-generator \(ms\): [\d.]+ \| "
               r"throughput per GPU \(TFLOP/s/GPU\): [\d.e+-]+ \| tokens/s: \d+ \| learning rate: 1\.000000E-03 \| global batch size: +4 \| "
               r"lm loss: \d\.\d{6}E[+-]\d\d \| loss scale: 1\.0 \| grad norm: [\d.]+ \| num zeros: \d+ \| params norm: [\d.]+ \| "
               r"number of skipped iterations: +0 \| number of nan iterations: +0 \|")
    assert len(lines) == 2 and all(re.fullmatch(pattern, line) for line in lines), result.err


def test_steps_that_overflow_have_no_loss_on_the_line(training):
    steps, result = training.run("mixed_precision=fp16_mixed", "train.train_iters=2", "logger.log_interval=1")
    assert [s["skipped"] for s in steps] == [True, True], "scaled by 2^32, the gradients of any model overflow"
    lines = [line for line in result.err.splitlines() if "consumed samples" in line]
    assert len(lines) == 2
    for line in lines:
        assert "number of skipped iterations:   1" in line and "lm loss" not in line and "grad norm" not in line, line


def test_splits_nobody_reads_need_no_data(training, tmp_path):
    """The usual split leaves a small corpus without test documents, and without validation documents where nobody validates."""
    for order in ("megatron", "permutation"):
        steps, _ = training.run("dataset.split=null", f"dataset.order={order}", "train.train_iters=2", name=order)
        assert len(steps) == 2
    corpus = training.settings[2].removeprefix("dataset.data_path=[").removesuffix("]")
    steps, _ = training.run(f"dataset.data_path=[1,{corpus},1,{corpus}]", "dataset.split=null", "dataset.order=megatron", "train.train_iters=2", name="blend")
    assert len(steps) == 2
    _, result = training.run("dataset.split=null", "dataset.order=megatron", "validation.eval_interval=1", "train.train_iters=2", name="valid", code=1)
    assert "(valid split)" in result.err, result.err
    for interval in (0, 1):
        _, result = training.run("dataset.split='1,0,0'", f"validation.eval_interval={interval}", "train.train_iters=1", name=f"none{interval}")
        assert ("there is no validation data" in result.err) == (interval > 0), result.err


def test_safetensors_beside_the_checkpoint(training, tmp_path, ponte):
    import transformers
    save = tmp_path / "save"
    training.run(f"checkpoint.save={save}", "checkpoint.save_hf=true", "train.exit_interval=2", "mixed_precision=bf16_mixed")
    inside = save / "iter_0000002" / "hf"
    ponte("export", "--megatron-path", save, "--hf-path", tmp_path / "exported")
    left = transformers.AutoModelForCausalLM.from_pretrained(inside, dtype="auto").state_dict()
    right = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "exported", dtype="auto").state_dict()
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype == torch.bfloat16 and torch.equal(left[name], right[name]), name
    transformers.AutoTokenizer.from_pretrained(inside)
    ponte("verify", "--hf-model", inside, "--megatron-path", save)


def test_optimizer_state_is_model_shaped(training, tmp_path):
    save = tmp_path / "save"
    training.run(f"checkpoint.save={save}", "train.exit_interval=2", "mixed_precision=bf16_mixed")
    tensors = load_checkpoint(save / "iter_0000002")
    weights = {key: value for key, value in tensors.items() if not key.startswith("optimizer.")}
    assert all(value.dtype == torch.bfloat16 for value in weights.values())
    assert set(tensors) == set(weights) | {f"optimizer.state.{part}.{key}" for key in weights for part in ("param", "exp_avg", "exp_avg_sq")}
    for key, value in weights.items():
        main = tensors[f"optimizer.state.param.{key}"]
        assert main.dtype == torch.float32 and main.shape == value.shape and torch.equal(main.to(torch.bfloat16), value), key
    common = torch.load(save / "iter_0000002" / "common.pt", weights_only=False)
    assert common["opt_param_scheduler"]["num_steps"] == 8 and common["optimizer"]["optimizer"]["param_groups"][0]["step"] == 2
    state = torch.load(save / "latest_train_state.pt", weights_only=True)
    assert state["step"].item() == 2 and state["consumed_train_samples"].item() == 8


def test_random_state_is_what_megatron_sets(training, tmp_path):
    import io
    import random

    import numpy as np
    from torch.distributed.checkpoint import FileSystemReader
    save = tmp_path / "save" / "iter_0000001"
    training.run(f"checkpoint.save={tmp_path / 'save'}", "train.exit_interval=1")
    (entry,) = [place for index, place in FileSystemReader(str(save)).read_metadata().storage_data.items() if index.fqn == "rng_state/shard_0.0_1.1"]
    data = (save / entry.relative_path).read_bytes()[entry.offset:entry.offset + entry.length]
    [[state]] = torch.load(io.BytesIO(data), weights_only=True)
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        random.setstate(state["random_rng_state"])
        np.random.set_state(state["np_rng_state"])
        torch.set_rng_state(state["torch_rng_state"])
        assert np.random.RandomState(1234).randint(1 << 30) == np.random.randint(1 << 30)
        assert torch.equal(state["torch_rng_state"], torch.Generator().manual_seed(1234).get_state())
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
    assert {"data-parallel-rng", "model-parallel-rng", "expert-parallel-rng"} == state["rng_tracker_states"].keys()


def test_starting_points(training, tmp_path, ponte, tiny):
    """The same weights give the same first loss, wherever they come from; random weights depend on the seed alone."""
    folder, _ = tiny("qwen3")
    one = ("train.train_iters=1",)
    from_hf = training.run(*one, name="hf")[0][0]["lm_loss"]
    ponte("import", "--hf-model", folder, "--megatron-path", tmp_path / "imported")
    without_hf = Training(ponte, tmp_path, "--hf-model", folder, *training.settings[2:])
    for setting in (f"checkpoint.pretrained_checkpoint={tmp_path / 'imported'}", f"checkpoint.pretrained_checkpoint={folder}",
                    f"checkpoint.load={tmp_path / 'imported'}"):
        assert without_hf.run(*one, setting, name="other")[0][0]["lm_loss"] == from_hf, setting
    sizes = ["model.model_type=qwen3", "model.hf_architecture=Qwen3ForCausalLM", "model.num_layers=2", "model.hidden_size=32", "model.ffn_hidden_size=64",
             "model.num_attention_heads=4", "model.num_query_groups=2", "model.kv_channels=8", "model.vocab_size=512", "model.qk_layernorm=true",
             "model.max_position_embeddings=64"]
    fresh = Training(ponte, tmp_path, *sizes, *training.settings[2:])
    first, result = fresh.run(*one, name="fresh")
    assert "random weights, seed 1234" in result.err
    assert first[0]["lm_loss"] == pytest.approx(6.238, abs=0.05)  # ln 512
    assert fresh.run(*one, name="again")[0][0]["lm_loss"] == first[0]["lm_loss"]


def test_numbers_that_are_none(training, tmp_path, tiny):
    import safetensors.torch
    import shutil
    folder, _ = tiny("qwen3")
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    tensors = safetensors.torch.load_file(broken / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"][3, 5] = float("nan")
    safetensors.torch.save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    training.settings[1] = str(broken)
    _, result = training.run(f"checkpoint.save={tmp_path / 'save'}", code=1)
    assert "iteration 1: the loss is not finite for samples [0, 1]" in result.err, result.err
    assert "come out of decoder.layers.1;" in result.err and "decoder.layers.1.mlp.linear_fc2.weight" in result.err, result.err
    assert not (tmp_path / "save").exists(), "a run that went wrong leaves no checkpoint"


ERRORS = [(["optimizer.lr=1e-3", "optimizer.min_lr=1"], "optimizer.min_lr"),
          (["train.global_batch_size=3"], "global_batch_size"),
          (["train.trian_iters=3"], "train.train_iters"),
          (["peft=lora"], "peft"),
          (["dataset.kind=sft"], "sft"),
          (["model.tensor_model_parallel_size=2"], "tensor"),
          (["dataset.data_path=[/nowhere/at/all]"], "/nowhere/at/all"),
          (["checkpoint.save=/dev/null/run", "train.exit_interval=1"], "checkpoint.save /dev/null/run"),
          (["--lora-rank", "8"], "peft=lora"),
          (["checkpoint.load=/nowhere", "checkpoint.exit_on_missing_checkpoint=true"], "/nowhere"),
          (["--nproc-per-node", "5"], "multiple")]


@pytest.mark.parametrize("settings, names", ERRORS)
def test_errors_name_the_key(training, settings, names):
    _, result = training.run(*settings, code=1)
    assert names in result.err and "error" in result.err, result.err


def test_mock_data_and_dry_run(ponte, tmp_path, training):
    mock = Training(ponte, tmp_path, *[s for s in training.settings if not s.startswith("dataset.")])
    steps, _ = mock.run("train.train_iters=2", name="mock")
    assert len(steps) == 2
    result = ponte(*training.arguments("--dry-run"))
    assert "train_iters: 8" in result.out and "command line" in result.out
