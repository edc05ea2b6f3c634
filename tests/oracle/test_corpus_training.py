"""What a run sees of its data: the time it waited for batches, and faults of the threads that prepare them."""
import numpy as np
import pytest

from training import Training, write_corpus


@pytest.fixture
def corpus(tmp_path):
    return write_corpus(tmp_path / "corpus", documents=60)


@pytest.fixture
def training(ponte, tmp_path, tiny, corpus):
    folder, _ = tiny("qwen3")
    return Training(ponte, tmp_path, "--hf-model", folder, "optimizer.lr=1e-3", f"dataset.data_path=[{corpus}]", "dataset.split='1,0,0'",
                    "train.train_iters=12", "train.global_batch_size=4", "train.micro_batch_size=2", "model.seq_length=32",
                    "scheduler.lr_decay_style=constant", "scheduler.lr_decay_iters=12", "scheduler.lr_warmup_iters=2",
                    "validation.eval_interval=0", "validation.eval_iters=0")


def losses(steps):
    return [step["lm_loss"] for step in steps]


def test_the_order_where_none_is_named(training, tmp_path):
    """Permutation for a new run, which may then be made longer; a checkpoint goes on in the order it was made with; mock data has Megatron's."""
    whole, result = training.run()
    assert "dataset.order: permutation" in result.err
    named, result = training.run("dataset.order=permutation")
    assert losses(named) == losses(whole) and "dataset.order:" not in result.err
    megatron, _ = training.run("dataset.order=megatron")
    assert losses(megatron) != losses(whole)
    for order, more, wanted in (("permutation", ["train.train_iters=5"], whole), ("megatron", ["dataset.order=megatron", "train.exit_interval=5"], megatron)):
        folder = tmp_path / order
        first, _ = training.run(*more, f"checkpoint.save={folder}", name=order)
        rest, result = training.run(f"checkpoint.save={folder}", f"checkpoint.load={folder}", "scheduler.override_opt_param_scheduler=true", name=order)
        assert len(first) == 5 and f"dataset.order: {order}" in result.err
        assert losses(rest) == losses(wanted)
        other = {"permutation": "megatron", "megatron": "permutation"}[order]
        _, result = training.run(f"dataset.order={other}", f"checkpoint.load={folder}", name="other", code=1)
        assert f"its sample order is {order} and this run's {other} (dataset.order)" in result.err
    _, result = training.run("dataset.data_path=[]", "train.train_iters=1", name="mock")
    assert "dataset.order: megatron" in result.err


def test_the_wait_for_data_is_part_of_the_iteration(training):
    steps, _ = training.run()
    assert len(steps) == 12
    assert all(0 <= s["data_wait_ms"] <= s["ms_per_iteration"] for s in steps), steps


@pytest.mark.parametrize("workers", [1, 8])
def test_a_fault_in_the_loader_stops_the_run_with_its_message(training, corpus, workers):
    ids = np.fromfile(f"{corpus}.bin", dtype=np.int32)
    ids[len(ids) // 2] = 600000  # drawn somewhere in the first epoch
    ids.tofile(f"{corpus}.bin")
    steps, result = training.run(f"dataset.num_workers={workers}", "train.train_iters=100", code=1)
    assert f"{corpus}: sample " in result.err and "holds id 600000, but the vocabulary has 8192" in result.err, result.err
    assert len(steps) <= 22  # an epoch of some 2,800 tokens


def test_a_sentencepiece_tokenizer_goes_along(training, tmp_path, corpus, ponte):
    """A tokenizer.model ends documents, and comes out of the checkpoint again."""
    import test_sentencepiece
    folder = tmp_path / "tokenizer"
    oracle = test_sentencepiece.train(folder, [("one two three four five six " * 9) + c for c in "abcdefghij" * 3], vocab_size=300, byte_fallback=False)
    (folder / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    ids = np.fromfile(f"{corpus}.bin", dtype=np.int32)
    ids[::7] = oracle.eos_id()
    ids.tofile(f"{corpus}.bin")
    named = f"tokenizer.tokenizer_model={folder}"
    plain, _ = training.run("train.train_iters=2", named)
    masked, _ = training.run("train.train_iters=2", named, "dataset.eod_mask_loss=true", f"checkpoint.save={tmp_path / 'save'}", name="masked")
    assert losses(masked)[0] != losses(plain)[0]
    ponte("export", "--megatron-path", tmp_path / "save", "--hf-path", tmp_path / "hf")
    assert (tmp_path / "hf" / "tokenizer.model").read_bytes() == (folder / "tokenizer.model").read_bytes()
    (folder / "tokenizer.model").unlink()
    _, result = training.run("train.train_iters=1", named, name="none")
    assert f"training goes on without the tokenizer {folder}" in result.err, result.err
