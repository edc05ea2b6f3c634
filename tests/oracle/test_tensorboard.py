"""TensorBoard itself reads the event files of a run: Megatron's tags, the values of the JSON log, and no leftovers of a run that was continued."""
import numpy as np
import pytest

from training import Training, write_corpus


def curves(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    return {tag: [(event.step, event.value) for event in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]}


def histograms(folder):
    """For each tag and step the buckets as TensorBoard's plugin has them: left edge, right edge, count."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    accumulator = EventAccumulator(str(folder), size_guidance={"histograms": 0})
    accumulator.Reload()
    out = {}
    for tag in accumulator.Tags()["histograms"]:
        for event in accumulator.Histograms(tag):
            found = event.histogram_value
            edges = [found.min, *found.bucket_limit[:-1], found.max]
            out.setdefault(tag, []).append((event.step, list(zip(edges[:-1], edges[1:], found.bucket))))
    return out


@pytest.fixture
def training(ponte, tmp_path, tiny):
    folder, _ = tiny("qwen3")
    corpus = write_corpus(tmp_path / "corpus")
    return Training(ponte, tmp_path, "--hf-model", folder, f"dataset.data_path=[{corpus}]", "dataset.split='80,20,0'", "train.train_iters=6",
                    "train.global_batch_size=2", "train.micro_batch_size=2", "model.seq_length=32", "optimizer.lr=1e-3", "scheduler.lr_warmup_iters=2",
                    "validation.eval_interval=3", "validation.eval_iters=2", f"logger.tensorboard_dir={tmp_path / 'tensorboard'}",
                    "logger.log_params_norm=true", "logger.log_validation_ppl_to_tensorboard=true", "logger.log_throughput_to_tensorboard=true",
                    "logger.throughput_window_size=2", "logger.log_runtime_to_tensorboard=true", "logger.log_world_size_to_tensorboard=true")


def test_tags_and_values(training, tmp_path):
    """The tags Megatron Bridge writes by default and under these keys (training_log, evaluate_and_print_results), and our batch-generator-time and throughput_per_gpu."""
    steps, _ = training.run()
    found = curves(tmp_path / "tensorboard")
    wanted = {"lm loss", "lm loss vs samples", "learning-rate", "learning-rate vs samples", "grad-norm", "grad-norm vs samples", "batch-size",
              "batch-size vs samples", "loss-scale", "loss-scale vs samples", "params-norm", "params-norm vs samples", "iteration-time", "batch-generator-time",
              "throughput/tflops/device", "throughput/tflops", "throughput_per_gpu", "lm loss validation", "lm loss validation vs samples", "lm loss validation ppl",
              "lm loss validation ppl vs samples", "world-size", "world-size vs samples", "time/remaining_estimate", "time/tokens", "time/samples",
              "time/batches", "time/total"}
    wanted |= {f"throughput/{what}" for what in ("batches_per_sec", "samples_per_sec", "tokens_per_sec", "device/batches_per_sec", "device/samples_per_sec",
                                                 "device/tokens_per_sec", "micro_batch_size", "global_batch_size")}
    assert found.keys() == wanted
    for tag, key in (("lm loss", "lm_loss"), ("learning-rate", "learning_rate"), ("grad-norm", "grad_norm"), ("params-norm", "params_norm")):
        assert found[tag] == [(s["iteration"], float(np.float32(s[key]))) for s in steps], tag
    for tag in ("throughput_per_gpu", "throughput/tflops/device"):
        assert found[tag] == [(s["iteration"], float(np.float32(s["throughput_per_gpu"]))) for s in steps], tag
    assert found["lm loss vs samples"] == [(s["consumed_samples"], float(np.float32(s["lm_loss"]))) for s in steps]
    assert found["lm loss validation"] == [(s["iteration"], float(np.float32(s["val_loss"]))) for s in steps if "val_loss" in s]
    assert [step for step, _ in found["lm loss validation"]] == [3, 6]
    for by_step, by_samples in (("lm loss validation", "lm loss validation vs samples"), ("lm loss validation ppl", "lm loss validation ppl vs samples")):
        assert found[by_samples] == [(2 * step, value) for step, value in found[by_step]]
    assert found["lm loss validation ppl"] == [(step, pytest.approx(np.exp(value), rel=1e-6)) for step, value in found["lm loss validation"]]
    assert found["time/tokens"] == [(s["iteration"], s["consumed_samples"] * 32) for s in steps] and found["time/remaining_estimate"][-1] == (6, 0)
    assert [step for step, _ in found["throughput/batches_per_sec"]] == [2, 3, 4, 5, 6]  # a window of two steps


def test_a_continued_run_replaces_what_it_repeats(training, tmp_path):
    save = f"checkpoint.save={tmp_path / 'save'}"
    training.run(save, "checkpoint.save_interval=2", "train.exit_interval=5")
    (tmp_path / "save" / "latest_checkpointed_iteration.txt").write_text("4")  # as if killed in step 5's save
    steps, _ = training.run(save, f"checkpoint.load={tmp_path / 'save'}")
    assert [s["iteration"] for s in steps] == [1, 2, 3, 4, 5, 6]
    assert [step for step, _ in curves(tmp_path / "tensorboard")["lm loss"]] == [1, 2, 3, 4, 5, 6]
