"""What the tests of training share: a small corpus on disk, `ponte train` with its log as records, and checkpoints as tensors."""
import json
import pathlib
import struct

import numpy as np


ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # models this small lose more than they gain by a second one


def write_corpus(prefix, vocab=512, documents=40, seed=7, shortest=5, longest=90):
    """Random documents as Megatron's .bin/.idx (int32 tokens), written from the format's description."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(shortest, longest, documents).astype(np.int32)
    # Sequences with structure, so that a loss can fall: a random walk over the vocabulary.
    tokens = (np.cumsum(generator.integers(0, 3, int(lengths.sum()))) % (vocab - 2)).astype(np.int32)
    with open(f"{prefix}.bin", "wb") as out:
        out.write(tokens.tobytes())
    pointers = (np.concatenate([[0], np.cumsum(lengths[:-1], dtype=np.int64)]) * 4).astype(np.int64)
    with open(f"{prefix}.idx", "wb") as out:
        out.write(b"MMIDIDX\x00\x00" + struct.pack("<QB", 1, 4) + struct.pack("<QQ", documents, documents + 1))
        out.write(lengths.tobytes() + pointers.tobytes() + np.arange(documents + 1, dtype=np.int64).tobytes())
    return prefix


class Training:
    """One configuration; run(...) trains with it and returns the JSON records of its steps."""

    def __init__(self, ponte, folder, *settings):
        self.ponte, self.folder, self.settings = ponte, pathlib.Path(folder), [str(s) for s in settings]

    def arguments(self, *more, log=None):
        return ["train", *self.settings, *([f"logger.jsonl={log}"] if log else []), *map(str, more)]

    def run(self, *more, name="log", code=0, timeout=300, cwd=None):
        log = self.folder / f"{name}.jsonl"
        result = self.ponte(*self.arguments(*more, log=log), code=code, timeout=timeout, env=ONE_THREAD, cwd=cwd)
        return (records(log) if log.exists() else []), result


def records(log):
    return [json.loads(line) for line in pathlib.Path(log).read_text().splitlines()]


def comparable(steps):
    timing = {"tokens_per_second", "throughput_per_gpu", "ms_per_iteration", "data_wait_ms"}
    return [{key: value for key, value in step.items() if key not in timing} for step in steps]


def series(steps, key):
    return {step["iteration"]: step[key] for step in steps}


def load_checkpoint(iteration):
    """Every tensor of a torch_dist iteration, read by torch.distributed.checkpoint."""
    import torch
    from torch.distributed.checkpoint import FileSystemReader, load
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    reader = FileSystemReader(str(iteration))
    tensors = {key: torch.empty(item.size, dtype=item.properties.dtype) for key, item in reader.read_metadata().state_dict_metadata.items()
               if isinstance(item, TensorStorageMetadata)}
    load(tensors, storage_reader=reader, no_dist=True)
    return tensors


def assert_same_tensors(left, right):
    import torch
    assert left.keys() == right.keys()
    for key in left:
        assert left[key].dtype == right[key].dtype, key
        assert torch.equal(left[key], right[key]), key


def expect_bitwise_resume(ponte, folder, model, precision, *settings):
    """Six steps from a model's weights, left after two and continued, against a run left in peace. Returns the last checkpoint's tensors."""
    corpus = write_corpus(folder / "corpus", documents=12, shortest=40, longest=60)
    training = Training(ponte, folder, "--hf-model", model, f"dataset.data_path=[{corpus}]", "dataset.split='100,0,0'", "train.train_iters=6",
                        "train.global_batch_size=4", "train.micro_batch_size=2", "model.seq_length=32", "optimizer.lr=1e-3", "validation.eval_interval=0",
                        "checkpoint.save_interval=1000", *([] if precision == "fp32" else [f"mixed_precision={precision}"]), *settings)
    whole, _ = training.run(f"checkpoint.save={folder / 'whole'}", name="whole")
    part = folder / "part"
    training.run(f"checkpoint.save={part}", "train.exit_interval=2", name="part")
    resumed, _ = training.run(f"checkpoint.save={part}", f"checkpoint.load={part}", name="part")
    assert comparable(resumed) == comparable(whole)
    ends = [load_checkpoint(f / f"iter_{len(whole):07d}") for f in (folder / "whole", part)]
    assert_same_tensors(*ends)
    return ends[0]
