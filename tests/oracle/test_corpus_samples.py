"""The sample stream of order `megatron` against megatron-core itself, token for token, over a table of configurations."""
import json
import random
import shutil

import numpy
import pytest
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig, MockGPTDataset
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder
from megatron.core.datasets.utils import get_blend_from_list

VOCAB, EOD = 1000, 7


class StubTokenizer:
    """What the datasets ask of a tokenizer."""

    def __init__(self, pad):
        self.vocab_size, self.eod, self.eos = VOCAB, EOD, EOD
        if pad is not None:
            self.pad = pad

    unique_identifiers = {"class": "stub"}


def write_corpus(prefix, seed, documents, longest, dtype=numpy.uint16, several=False):
    draw = random.Random(seed)
    builder = IndexedDatasetBuilder(str(prefix) + ".bin", dtype=dtype)
    for _ in range(documents):
        lengths = [draw.randrange(0 if draw.random() < 0.1 else 1, longest) for _ in range(draw.randrange(1, 4) if several else 1)]
        ids = [draw.randrange(VOCAB) for _ in range(sum(lengths))]
        builder.add_document(ids, lengths)
    builder.finalize(str(prefix) + ".idx")
    return str(prefix)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora")
    return {
        "a": write_corpus(folder / "a", 1, 120, 90),
        "b": write_corpus(folder / "b", 2, 61, 300, numpy.int32),
        "c": write_corpus(folder / "c.v2", 3, 40, 50, several=True),
        "long": write_corpus(folder / "long", 4, 5, 6000),
        **{f"many{i}": write_corpus(folder / f"many{i}", 10 + i, 20 + i, 60) for i in range(11)},
    }


MANY = [word for i in range(11) for word in (str(0.3 + 0.1 * i), f"many{i}")]

# name: (data_path or per-split blends, split, seq_length, samples, other fields)
CASES = {
    "one epoch": (["a"], "9,1,0", 32, (None, None, None), {}),
    "less than an epoch": (["a"], "99,8,2", 64, (20, 2, 1), {}),
    "several epochs, last kept apart": (["a"], "8,1,1", 32, (405, 30, 20), {}),
    "several epochs, last joined": (["a"], "8,1,1", 32, (1000, 41, 55), {}),
    "every count around an epoch": (["long"], "1,1,1", 128, (130, 71, 260), {}),
    "unnormalised split": (["a"], "9999,8,2", 16, (50, None, None), {}),
    "two shares": (["a"], "70,30", 16, (50, 3, None), {}),
    "seed 0": (["b"], "1,1,1", 48, (77, 33, 11), {"random_seed": 0}),
    "seed 2^32-1": (["b"], "1,1,1", 48, (77, 33, 11), {"random_seed": 2**32 - 1}),
    "sequence length 1": (["c"], "4,3,3", 1, (900, 600, 300), {}),
    "longer than the corpus": (["c"], "4,3,3", 4096, (3, 2, 2), {}),
    "no extra token": (["a"], "7,2,1", 32, (300, 40, 20), {"add_extra_token_to_sequence": False}),
    "no extra token, one epoch": (["c"], "7,2,1", 32, (None, None, None), {"add_extra_token_to_sequence": False}),
    "partial validation kept": (["a"], "5,4,1", 32, (100, None, 10), {"drop_last_partial_validation_sequence": False}),
    "partial validation kept, epochs": (["a"], "5,4,1", 37, (100, 151, 10), {"drop_last_partial_validation_sequence": False}),
    "partial, no extra token": (["a"], "5,4,1", 37, (100, 50, 10), {"drop_last_partial_validation_sequence": False, "add_extra_token_to_sequence": False}),
    "eod masked": (["a"], "8,1,1", 64, (60, 5, 5), {"eod_mask_loss": True}),
    "positions and mask reset": (["a"], "8,1,1", 64, (60, 5, 5), {"reset_position_ids": True, "reset_attention_mask": True, "eod_mask_loss": True}),
    "positions reset": (["a"], "8,1,1", 64, (60, 5, 5), {"reset_position_ids": True}),
    "attention reset": (["c"], "8,1,1", 48, (60, 5, 5), {"reset_attention_mask": True}),
    "positions reset, eod masked": (["b"], "8,1,1", 64, (60, 5, 5), {"reset_position_ids": True, "eod_mask_loss": True}),
    "attention reset, eod masked": (["a"], "8,1,1", 33, (60, 5, 5), {"reset_attention_mask": True, "eod_mask_loss": True}),
    "positions and attention reset": (["a", "b"], "8,1,1", 64, (60, 5, 5), {"reset_position_ids": True, "reset_attention_mask": True}),
    "all resets, padded": (["a"], "5,4,1", 37, (100, None, 10), {"reset_position_ids": True, "reset_attention_mask": True, "eod_mask_loss": True, "pad": 11,
                                                                 "drop_last_partial_validation_sequence": False}),
    "all resets, no extra token": (["a"], "5,4,1", 37, (100, 50, 10), {"reset_position_ids": True, "reset_attention_mask": True, "eod_mask_loss": True,
                                                                       "add_extra_token_to_sequence": False}),
    "eod masked, padded": (["c"], "5,4,1", 37, (100, None, 10), {"eod_mask_loss": True, "pad": 11, "drop_last_partial_validation_sequence": False}),
    "causal mask": (["a"], "8,1,1", 64, (60, 5, 5), {"create_attention_mask": True}),
    "own padding id": (["a"], "8,1,1", 64, (60, 5, 5), {"pad": 11}),
    "padding shared with eod": (["a"], "8,1,1", 64, (60, 5, 5), {"pad": EOD}),
    "blend by size": (["a", "b", "c"], "8,1,1", 32, (None, None, None), {}),
    "blend by size, fewer samples": (["a", "b", "c"], "8,1,1", 32, (100, 9, 8), {}),
    "blend by weight": (["30", "a", "70", "b"], "8,1,1", 32, (500, 40, 40), {}),
    "blend by weight of one": (["2", "a"], "8,1,1", 32, (500, 40, 40), {}),
    "blend of many": (MANY, "8,1,1", 16, (700, 60, 50), {}),
    "blend of many, no surplus": (MANY, "1,0,0", 16, (1500, 0, 0), {"mid_level_dataset_surplus": 0.1}),
    "blend per split": ({"train": ["0.3", "a", "0.7", "b"], "valid": ["c"], "test": ["a", "b"]}, None, 32, (300, 20, 9), {}),
    "blend per split, some": ({"train": ["a", "b"], "valid": ["1", "c"]}, None, 32, (None, 20, None), {}),
    "blend per split, all resets": ({"train": ["3", "a", "1", "b"], "valid": ["2", "c", "1", "a"]}, None, 32, (300, 40, None),
                                    {"reset_position_ids": True, "reset_attention_mask": True, "eod_mask_loss": True}),
    "blend per split, partial validation kept": ({"train": ["a"], "valid": ["b", "c"]}, None, 37, (50, None, None), {"drop_last_partial_validation_sequence": False}),
    "blend per split, one epoch of each": ({"train": ["a", "b"], "valid": ["c"], "test": ["long"]}, None, 32, (None, None, None), {}),
    "blend by weight, no extra token": (["1", "a", "3", "b"], "8,1,1", 32, (200, 20, 20), {"add_extra_token_to_sequence": False}),
    "blend by weight, partial validation kept": (["1", "a", "3", "b"], "5,4,1", 32, (200, 60, 20), {"drop_last_partial_validation_sequence": False}),
    "mock, all resets": (None, None, 64, (40, 20, 10), {"reset_position_ids": True, "reset_attention_mask": True, "eod_mask_loss": True}),
    "mock": (None, None, 64, (40, 20, 10), {}),
}


def reference(corpora, paths, split, seq_length, samples, fields):
    fields = dict(fields)
    config = dict(random_seed=1234, sequence_length=seq_length, reset_position_ids=False, reset_attention_mask=False, eod_mask_loss=False)
    tokenizer = StubTokenizer(fields.pop("pad", None))
    config.update(fields, create_attention_mask=fields.get("create_attention_mask", fields.get("reset_attention_mask", False)))
    named = lambda words: [corpora.get(w, w) for w in words]  # noqa: E731
    if isinstance(paths, dict):
        config["blend_per_split"] = [get_blend_from_list(named(paths[s])) if s in paths else None for s in ("train", "valid", "test")]
    elif paths is not None:
        config.update(blend=get_blend_from_list(named(paths)), split=split)
    # Without a cache folder megatron-core writes beside the corpus, under names that leave drop_last_partial_validation_sequence out.
    for prefix in corpora.values():
        shutil.rmtree(prefix, ignore_errors=True)
    config = GPTDatasetConfig(tokenizer=tokenizer, path_to_cache=None, **config)
    kind = GPTDataset if paths is not None else MockGPTDataset
    return BlendedMegatronDatasetBuilder(kind, list(samples), lambda: True, config).build()


def flags_of(corpora, paths, split, seq_length, samples, fields):
    flags = ["--order", "megatron", "--seq-length", seq_length, "--num-samples", ",".join(str(-1 if n is None else n) for n in samples), "--eod-id", EOD, "--vocab-size", VOCAB]
    named = lambda words: [corpora.get(w, w) for w in words]  # noqa: E731
    if isinstance(paths, dict):
        for name, words in paths.items():
            flags += [f"--{name}-data-path", *named(words)]
    elif paths is not None:
        flags += ["--data-path", *named(paths), "--split", split]
    if "random_seed" in fields:
        flags += ["--seed", fields["random_seed"]]
    if fields.get("pad", EOD) != EOD:
        flags += ["--pad-id", fields["pad"]]
    if "mid_level_dataset_surplus" in fields:
        flags += ["--mid-level-dataset-surplus", fields["mid_level_dataset_surplus"]]
    for name, flag in (("eod_mask_loss", "--eod-mask-loss"), ("reset_position_ids", "--reset-position-ids"), ("reset_attention_mask", "--reset-attention-mask")):
        if fields.get(name):
            flags.append(flag)
    if fields.get("add_extra_token_to_sequence") is False:
        flags.append("--no-extra-token")
    if fields.get("drop_last_partial_validation_sequence") is False:
        flags.append("--keep-partial-validation-sequence")
    return flags


def attention_from(starts, length):
    """True where attention is masked out, as megatron-core returns it."""
    mask = numpy.tril(numpy.ones((length, length), dtype=bool))
    for start in starts[1:]:
        mask[start:, :start] = False
    return ~mask


@pytest.mark.parametrize("name", CASES)
def test_samples_equal_megatron_core(name, ponte, corpora):
    paths, split, seq_length, samples, fields = CASES[name]
    datasets = reference(corpora, paths, split, seq_length, samples, fields)
    for split_name, dataset in zip(("train", "valid", "test"), datasets):
        if dataset is None:
            continue
        shown = min(len(dataset), 1500)  # mock data has hundreds of thousands
        result = ponte("data", "samples", "--split-name", split_name, "--count", shown, *flags_of(corpora, paths, split, seq_length, samples, fields))
        lines = [json.loads(line) for line in result.out.splitlines()]
        assert len(lines) == shown and result.err.startswith(f"{len(dataset)} samples"), split_name
        for index, line in enumerate(lines):
            wanted = dataset[index]
            where = f"{split_name} sample {index}"
            assert line["tokens"][:-1] == wanted["tokens"].tolist(), where
            assert line["tokens"][1:] == wanted["labels"].tolist(), where
            assert line["loss_mask"] == wanted["loss_mask"].int().tolist(), where
            if fields.get("reset_position_ids"):
                assert line["position_ids"] == wanted["position_ids"].tolist(), where
            if "attention_mask" in wanted:
                assert (attention_from(line.get("segment_starts", [0]), seq_length) == wanted["attention_mask"][0].numpy()).all(), where


def test_cached_indices_give_the_same_samples(ponte, corpora, tmp_path):
    flags = ["data", "samples", "--data-path", "30", corpora["a"], "70", corpora["b"], "--split", "8,1,1", "--seq-length", 32, "--num-samples", "500,10,10",
             "--order", "megatron"]
    plain = ponte(*flags)
    built = ponte(*flags, "--path-to-cache", tmp_path)
    mapped = ponte(*flags, "--path-to-cache", tmp_path)
    assert plain.out == built.out == mapped.out
    assert plain.err == built.err == mapped.err  # the fingerprint
    shuffled = numpy.load(next(tmp_path.glob("*-train-shuffle_index.npy")))
    assert sorted(shuffled.tolist()) == list(range(len(shuffled)))


def test_permutation_visits_every_sample_once_per_epoch(ponte, corpora):
    flags = ["data", "samples", "--data-path", corpora["a"], "--split", "1,0,0", "--seq-length", 32]  # the order where none is named
    epoch = [tuple(json.loads(line)["tokens"]) for line in ponte(*flags).out.splitlines()]
    stream = numpy.fromfile(corpora["a"] + ".bin", dtype=numpy.uint16).tolist()
    wanted = [tuple(stream[i * 32:i * 32 + 33]) for i in range((len(stream) - 1) // 32)]
    assert sorted(epoch) == sorted(wanted) and epoch != wanted
    three = [tuple(json.loads(line)["tokens"]) for line in ponte(*flags, "--num-samples", f"{3 * len(wanted)},-1,-1").out.splitlines()]
    assert three[:len(wanted)] == epoch
    for e in range(3):
        part = three[e * len(wanted):(e + 1) * len(wanted)]
        assert sorted(part) == sorted(wanted) and (e == 0 or part != epoch)


def test_permutation_blend_keeps_shares(ponte, corpora):
    words = ["5", corpora["a"], "3", corpora["b"], "2", corpora["c"]]
    common = ["data", "samples", "--split", "1,0,0", "--seq-length", 8, "--order", "permutation"]
    own = {}
    for share, prefix in zip((0.5, 0.3, 0.2), (corpora["a"], corpora["b"], corpora["c"])):
        for line in ponte(*common, "--data-path", prefix, "--num-samples", "1000,-1,-1").out.splitlines():
            own.setdefault(tuple(json.loads(line)["tokens"]), share)
    drawn = [own[tuple(json.loads(line)["tokens"])] for line in ponte(*common, "--data-path", *words, "--num-samples", "1000,-1,-1").out.splitlines()]
    for length in (10, 100, 1000):
        for share in (0.5, 0.3, 0.2):
            assert abs(drawn[:length].count(share) - share * length) <= 2, (length, share)
