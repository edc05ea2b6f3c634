"""tokenizer.model files against the `sentencepiece` library: models trained here, of every normalizer and option that changes ids."""
import io
import json

import pytest
import sentencepiece as spm

import text_tool
from test_tokenizer import SAMPLES, prose, random_texts  # noqa: F401  (prose is a fixture)

MODELS = {
    "llama2": dict(byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True, allow_whitespace_only_pieces=True),
    "gemma": dict(byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=False, split_digits=True,
                  user_defined_symbols=["<mask>", "▁▁", "▁▁▁▁", "\n\n", "[@BOS@]", "é", "<b>"]),
    "default": dict(),  # nmt_nfkc, extra spaces removed, no bytes
    "default_bytes": dict(byte_fallback=True),
    "nfkc_cf": dict(normalization_rule_name="nfkc_cf", byte_fallback=True, remove_extra_whitespaces=False),
    "suffix": dict(treat_whitespace_as_suffix=True, byte_fallback=True),
    "plain_spaces": dict(add_dummy_prefix=False, remove_extra_whitespaces=True, normalization_rule_name="nfkc"),
    "across_words": dict(split_by_whitespace=False, byte_fallback=True, normalization_rule_name="identity"),
    "controls": dict(control_symbols=["<sep>", "▁<cls>"], user_defined_symbols=["a▁b", "the"], pad_id=3, unk_id=0, bos_id=1, eos_id=2),
}
MORE = ["<s>a</s>", "<sep> x <mask>y [@BOS@] a b a▁b", "▁a▁▁b", "a  b   c    d", "   ", "\u3000x\u3000", "ﬁ①Ⅷ ﷺ", "é<b>é</b>\n\n\n\n", "<0x41> <unk>", "ÀÉ ß ẞ İ"]


def train(folder, prose, **options):
    model = io.BytesIO()
    options = {"vocab_size": 700 if options.get("byte_fallback") else 500, "model_type": "bpe", "character_coverage": 0.995, "minloglevel": 2, **options}
    lines = [line for text in prose[:20] + SAMPLES[5:14] for line in text.split("\n") if line.strip()]
    spm.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=model, hard_vocab_limit=False, **options)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    return spm.SentencePieceProcessor(model_proto=model.getvalue())


def texts(prose, seed, n):
    return SAMPLES + MORE + prose[20:40] + random_texts(seed, n)


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.fast) if name == "gemma" else name for name in MODELS])
def test_ids_offsets_and_text(tmp_path, prose, name):
    oracle = train(tmp_path, prose, **MODELS[name])
    cases = texts(prose, name, 1500)
    frames = [t.encode() for t in cases]
    got = text_tool.id_frames(text_tool.run(["encode", tmp_path], frames))
    for text, ids in zip(cases, got, strict=True):
        assert ids == oracle.encode(text), (ascii(text[:200]), ids[:40], oracle.encode(text)[:40])
    for text, spans in zip(cases, text_tool.span_frames(text_tool.run(["offsets", tmp_path], frames)), strict=True):
        at = [i for i, c in enumerate(text) for _ in c.encode()] + [len(text)]  # character of a byte; the library counts bytes
        assert spans == [(p.id, at[p.begin], at[p.end]) for p in oracle.encode(text, return_type="proto").pieces], ascii(text[:200])
    unknown, decoded = oracle.unk_id(), text_tool.byte_frames(text_tool.run(["decode", tmp_path], got))
    for ids, text in zip(got, decoded, strict=True):
        if unknown not in ids:
            assert text.decode() == oracle.decode(ids), ids[:40]


@pytest.mark.fast
def test_special_tokens_of_the_configuration(tmp_path, prose):
    """Plain SentencePiece knows no special token in a text; tokenizer_config.json names those that are to be cut out, and what is put around."""
    oracle = train(tmp_path, prose, **MODELS["llama2"])
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True, "add_eos_token": True}))
    (ids,) = text_tool.id_frames(text_tool.run(["encode", tmp_path], [b"one</s>two"]))
    assert ids == [oracle.bos_id(), *oracle.encode("one"), oracle.eos_id(), *oracle.encode("two"), oracle.eos_id()]
    (text,) = text_tool.byte_frames(text_tool.run(["decode", tmp_path, "--skip"], [[1, *oracle.encode("one two"), 2]]))
    assert text == b"one two"


def test_transformers_reads_the_same_model_alike(tmp_path, prose):
    """Where transformers' own conversion of the file is exact, the ids are the same."""
    import transformers
    train(tmp_path, prose, **MODELS["llama2"])
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "legacy": False, "add_bos_token": False}))
    reference = transformers.LlamaTokenizer.from_pretrained(tmp_path)
    cases = [t for t in prose[20:40] + SAMPLES[5:12] + ["Hello world", "a  b", "x\n\ny"]]
    got = text_tool.id_frames(text_tool.run(["encode", tmp_path], [t.encode() for t in cases]))
    for text, ids in zip(cases, got, strict=True):
        assert ids == reference(text)["input_ids"], ascii(text[:100])


def field(number, payload):
    out = bytes([number << 3 | 2])
    n = len(payload)
    while n >= 128:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n]) + payload


UNK, BPE = field(1, field(1, b"<unk>") + b"\x18\x02"), field(2, b"\x18\x02")


def piece(text, score=b"\0\0\0\0", kind=None):
    return field(1, field(1, text) + b"\x15" + score + (bytes([0x18, kind]) if kind else b""))


@pytest.mark.fast
@pytest.mark.parametrize("data, message", [
    (b"", "0 unknown pieces"), (UNK + BPE + b"\x0a\x7f", "of 127 bytes where 0 are left"), (b"\xff" * 12, "does not end"), (b"\x0b", "wire type 3"),
    (UNK + piece(b""), "empty or not UTF-8"), (UNK + piece(b"\xff"), "empty or not UTF-8"), (UNK + piece(b"a") + piece(b"a"), "'a' is there twice"),
    (UNK + UNK, "is there twice"), (UNK + piece(b"<0x41>", kind=6) + BPE, "without byte_fallback"), (UNK + piece(b"a"), "model type unigram, only BPE"),
    (UNK + field(2, b"\x18\x09"), "model type 9"), (UNK + piece(b"a", b"\0\0\xc0\x7f"), "is not a number"), (UNK + piece(b"a", kind=7), "piece type 7"),
    (UNK + piece(b"a") + piece(b"b") + piece(b"ab") + piece(b"ba") + BPE, "have the same score"), (UNK + BPE + piece(b"a", kind=5), "is marked unused"),
    (UNK + BPE + field(3, field(2, b"\x08\0\0\0abcd")), "take 8 of 4 bytes"), (UNK + BPE + field(3, field(2, b"\x04\0\0\0abcdxy")), "do not end"),
    (UNK + field(2, b"\x98\x02\x01"), "0 byte pieces, wanted 256"), (b"\x02", "field number 0"), (b"\x08\x01", "field 1 has wire type 0"),
])
def test_damaged_models_are_errors(tmp_path, data, message):
    (tmp_path / "tokenizer.model").write_bytes(data)
    with pytest.raises(AssertionError) as error:
        text_tool.run(["encode", tmp_path], [b"a b"])
    assert message in str(error.value), error.value
