"""Ids and text against the `tokenizers` library: the families' pipelines, added tokens, hostile and multilingual text."""
import gzip
import json
import pathlib
import random

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import text_tool

ROOT = pathlib.Path(__file__).resolve().parents[2]

LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPACES = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
PATTERNS = {
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "qwen2": CONTRACTIONS + "|" + LETTERS + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*" + SPACES,
    "qwen3_next": CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*" + SPACES,
    "llama3": CONTRACTIONS + "|" + LETTERS + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + SPACES,
    "o200k": rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{CONTRACTIONS}?"
             + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + SPACES,
    "tekken": rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*" + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + SPACES,
    # none of the known ones: these go through PCRE2
    "four_digits": CONTRACTIONS + "|" + LETTERS + r"|\p{N}{1,4}| ?[^\s\p{L}\p{N}]+[\r\n]*" + SPACES,
    "punctuation": r"[!-~]?[A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*" + SPACES,
    "words": r"[\p{L}\p{N}_]+|[^\p{L}\p{N}_\s]+",
}
DEEPSEEK = [r"\p{N}{1,3}", "[一-龥\u3040-ゟ゠-ヿ]+",
            "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"]

SAMPLES = ["", " ", "  ", "\n", "a", "Hello, world! I'm here; it'S 1234567 o'clock.\r\n\r\n\tIndented  text   \n", "'s 't 'RE 'Ve 'M 'lL 'd 'ſ \u017f'\u017fx",
           "你好，世界。日本語のテキスト、한국어 텍스트 ไทยภาษา हिन्दी भाषा العربية עִבְרִית ქართული Ελληνικά Русский язык", "e\u0301 n\u0303 ① ﬁ Å \u1112\u1161\u11ab \u0344 \u0958 \u2126",
           "🙂👍🏽👩‍👩‍👧‍👦🇩🇪🏴\U000e0067\U000e0062\U000e007f 1️⃣", "\u200b\u200d\ufeff\u00a0\u2028\u2029\u3000\x00\x01\x7f\x85", "def f(x):\n    return x ** 2  # comment\n\n\nclass A: pass\n",
           "ǅǈǋʰªº ᏣᎳᎩ ꭰ 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 ⅧⅯ ½²₃٣४", "<|im_start|>user\nhi<|im_end|>\n<|endoftext|>", "a" * 3000, " " * 3000 + "x", "\n" * 999, "ab" * 2000, "é" * 1000, "1" * 1000, "!?" * 1000,
           "x" + "\u0301" * 500, "مرحبا" * 300, "中文" * 700]


def character(rng):
    r = rng.random()
    if r < 0.25:
        return chr(rng.randrange(32, 127))
    if r < 0.35:
        return rng.choice(" \n\r\t'\u00a0\u2028\u3000\x0b\x0c\x85/")
    if r < 0.42:
        return rng.choice("sStTmMdDlLvVrReE\u017f'")
    if r < 0.5:
        return chr(rng.randrange(0x300, 0x370))
    if r < 0.6:
        return rng.choice("ǅǈʰªºІЖяЯéÉßﬁ中文字가각ᄀ각あが゙ア١٢Ⅷ½²ⅷ①🙂👍🏽👩‍💻🇩🇪नमस्ते\u0e33\u0e49\u200d\ufeff\ufffd")
    if r < 0.85:
        return chr(rng.choice([rng.randrange(0x80, 0x800), rng.randrange(0x800, 0xD800), rng.randrange(0xE000, 0x10000)]))
    return chr(rng.randrange(0x10000, 0x32000))


def random_texts(seed, n):
    rng = random.Random(seed)
    out = []
    for _ in range(n):
        length = rng.choice([1, 2, 3, 5, 8, 20, 60, 200])
        text = ""
        while len(text) < length:
            text += character(rng) * rng.choice([1, 1, 1, 1, 2, 3, 9])
        out.append(text)
    return out


@pytest.fixture(scope="session")
def prose():
    lines = gzip.open(ROOT / "demo" / "prose.jsonl.gz", "rt", encoding="utf-8").read(400_000).split("\n")[:-1]
    return [json.loads(line)["text"] for line in lines]


def byte_level(prose, pre, normalizer=normalizers.NFC(), vocab=600, **options):
    """A small BPE trained on the prose and the samples."""
    out = Tokenizer(models.BPE())
    out.normalizer = normalizer
    out.pre_tokenizer = pre_tokenizers.Sequence(pre + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    out.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False, special_tokens=[])
    out.train_from_iterator(prose + SAMPLES[:14] * 30, trainer)
    if options:
        description = json.loads(out.to_str())
        description["model"].update(options)
        out = Tokenizer.from_str(json.dumps(description))
    return out


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern), behavior, invert)


def check(folder, oracle, texts, config=None, add_special=True):
    """Ids, offsets and decoded text of `texts` are the oracle's."""
    folder.mkdir(parents=True, exist_ok=True)
    oracle.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config or {"model_max_length": int(1e30)}))
    options = [] if add_special else ["--no-special"]
    frames = [t.encode() for t in texts]
    encodings = oracle.encode_batch(texts, add_special_tokens=add_special)
    want = [e.ids for e in encodings]
    for text, g, w in zip(texts, text_tool.id_frames(text_tool.run(["encode", folder, *options], frames)), want, strict=True):
        assert g == w, (ascii(text[:200]), g[:40], w[:40])
    for text, g, e in zip(texts, text_tool.span_frames(text_tool.run(["offsets", folder, *options], frames)), encodings, strict=True):
        wanted = [(i, *o) for i, o in zip(e.ids, e.offsets)]
        assert g == wanted, (ascii(text[:200]), [p for p in zip(g, wanted) if p[0] != p[1]][:5])
    for skip in (False, True):
        decoded = text_tool.byte_frames(text_tool.run(["decode", folder, *(["--skip"] if skip else [])], want))
        for ids, g in zip(want, decoded, strict=True):
            assert g.decode() == oracle.decode(ids, skip_special_tokens=skip), ids[:40]


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns(tmp_path, prose, name):
    oracle = byte_level(prose[:20], [split(PATTERNS[name], "removed" if name == "words" else "isolated", name == "words")])
    slow = name in ("four_digits", "punctuation", "words")
    check(tmp_path, oracle, SAMPLES + prose[20:40] + random_texts(name, 200 if slow else 1500))


def test_sequence_of_splits(tmp_path, prose):
    oracle = byte_level(prose[:20], [split(p) for p in DEEPSEEK], normalizer=normalizers.Sequence([]))
    check(tmp_path, oracle, SAMPLES + prose[20:40] + random_texts("deepseek", 200))


@pytest.mark.parametrize("behavior", ["isolated", "removed", "contiguous", "merged_with_previous", "merged_with_next"])
@pytest.mark.parametrize("invert", [False, True])
def test_split_behaviors(tmp_path, prose, behavior, invert):
    oracle = byte_level(prose[:5], [split(r"\p{N}+| [a-c]+|-", behavior, invert), pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.Punctuation()], vocab=300)
    check(tmp_path, oracle, SAMPLES[:8] + ["12 ab-34--- bb5", "--a1", "a--"] + random_texts(behavior, 200))


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_normal_forms(form):
    oracle = getattr(normalizers, form)()
    texts = SAMPLES + random_texts(form, 4000)
    for c in range(0x80, 0x110000, 1 if form == "NFC" else 7):
        if not 0xD800 <= c < 0xE000:
            texts.append(f"{chr(c)}a\u0345{chr(c)}\u0334\u0301{chr(c)}")
    got = text_tool.byte_frames(text_tool.run(["normalize", form.lower()], [t.encode() for t in texts]))
    for text, g in zip(texts, got):
        assert g.decode() == oracle.normalize_str(text), ascii(text)


def test_every_character_in_every_scanner():
    texts = [f"a{chr(c)}b '{chr(c)}x {chr(c)} 1{chr(c)}\n{chr(c)}{chr(c)}A" for c in range(0x110000) if not 0xD800 <= c < 0xE000 and (c < 0x3000 or c % 23 == 0)]
    frames = [t.encode() for t in texts]
    for name in ("gpt2", "qwen2", "qwen3_next", "llama3", "o200k", "tekken"):
        oracle = split(PATTERNS[name])
        for text, got in zip(texts, text_tool.id_frames(text_tool.run(["split", PATTERNS[name]], frames))):
            ends, at = [], 0
            for word, _ in oracle.pre_tokenize_str(text):
                at += len(word.encode())
                ends.append(at)
            assert got == ends, (name, ascii(text))


def test_gpt2_byte_level(tmp_path, prose):
    for prefix in (False, True):
        oracle = Tokenizer(models.BPE())
        oracle.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
        oracle.decoder = decoders.ByteLevel()
        oracle.post_processor = processors.ByteLevel(trim_offsets=False)
        oracle.train_from_iterator(prose[:20], trainers.BpeTrainer(vocab_size=500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
                                                                   special_tokens=["<|endoftext|>"]))
        check(tmp_path / str(prefix), oracle, SAMPLES + random_texts("gpt2", 500))


def test_merges_as_pairs_and_as_strings(tmp_path, prose):
    oracle = byte_level(prose[:10], [split(PATTERNS["qwen2"])])
    description = json.loads(oracle.to_str())
    description["model"]["merges"] = [" ".join(m) for m in description["model"]["merges"]]
    folder = tmp_path / "strings"
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(description))
    got = text_tool.id_frames(text_tool.run(["encode", folder], [t.encode() for t in SAMPLES]))
    assert got == [oracle.encode(t).ids for t in SAMPLES]


def test_ignore_merges(tmp_path, prose):
    oracle = byte_level(prose[:10], [split(PATTERNS["llama3"])])
    description = json.loads(oracle.to_str())
    model = description["model"]
    model["ignore_merges"] = True
    for word in ("Ġworld", "Hello", "ĠclockĠ", "é"):  # words without merges of their own
        model["vocab"].setdefault(word, len(model["vocab"]))
    check(tmp_path, Tokenizer.from_str(json.dumps(description)), SAMPLES + prose[10:20] + random_texts("ignore", 300))


def test_vocabulary_without_all_bytes(tmp_path):
    for unknown in (None, "<unk>"):
        for fuse in (False, True):
            vocab = {"<unk>": 0, "a": 1, "b": 2, "Ġ": 3, "ab": 4, "Ġab": 5}
            oracle = Tokenizer(models.BPE(vocab, [("a", "b"), ("Ġ", "ab")], unk_token=unknown, fuse_unk=fuse))
            oracle.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            oracle.decoder = decoders.ByteLevel()
            check(tmp_path / f"{unknown}{fuse}", oracle, ["ab ab", "axxb yy", "é", "xab", "zz ab zz", ""] + random_texts("unk", 100))


ADDED = [AddedToken("<|im_start|>", special=True), AddedToken("<|im_end|>", special=True), AddedToken("<|im", special=True), AddedToken("<tool>", normalized=False),
         AddedToken("[L]", lstrip=True, normalized=False), AddedToken("[R]", rstrip=True, normalized=False), AddedToken("[B]", lstrip=True, rstrip=True),
         AddedToken("word", single_word=True), AddedToken("wörd", single_word=True, normalized=False), AddedToken("é", normalized=True), AddedToken("Å"),
         AddedToken("  ", normalized=False), AddedToken("\n\n"), AddedToken("the", special=True)]


def added_texts(seed, n):
    rng = random.Random(seed)
    pieces = [t.content for t in ADDED] + ["e\u0301", "\u212b", "A\u030a", " ", "  ", "\t", "\n", "x", "_", "1", "é", "the", "word", "words", "\u00a0", "<|im", "_start|>", "[", "\u0301"]
    return ["".join(rng.choice(pieces) for _ in range(rng.choice([1, 2, 3, 6, 12]))) for _ in range(n)]


@pytest.mark.fast
def test_added_tokens(tmp_path, prose):
    oracle = byte_level(prose[:10], [split(PATTERNS["qwen2"])])
    oracle.add_tokens(ADDED)
    check(tmp_path, oracle, SAMPLES + added_texts(1, 3000))


def test_tokens_from_tokenizer_config(tmp_path, prose):
    import transformers
    oracle = byte_level(prose[:10], [split(PATTERNS["qwen2"])])
    oracle.add_special_tokens(["<|endoftext|>"])
    n = oracle.get_vocab_size()
    config = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "bos_token": None, "tokenizer_class": "PreTrainedTokenizerFast", "added_tokens_decoder": {
        str(n - 1): {"content": "<|endoftext|>", "lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True},
        str(n): {"content": "<|im_start|>", "lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True},
        str(n + 1): {"content": "<|im_end|>", "lstrip": False, "rstrip": True, "single_word": False, "normalized": False, "special": True},
        str(n + 2): {"content": "</think>", "lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": False}}}
    oracle.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    reference = transformers.AutoTokenizer.from_pretrained(tmp_path)
    texts = ["a<|im_start|>b<|im_end|>  c</think>d<|endoftext|>", "<think>x</think>\n", "plain é"]
    ids = [reference(t)["input_ids"] for t in texts]
    assert text_tool.id_frames(text_tool.run(["encode", tmp_path], [t.encode() for t in texts])) == ids
    for skip in (False, True):
        decoded = text_tool.byte_frames(text_tool.run(["decode", tmp_path, *(["--skip"] if skip else [])], ids))
        assert [d.decode() for d in decoded] == [reference.decode(i, skip_special_tokens=skip) for i in ids]


@pytest.mark.fast
def test_post_processors(tmp_path, prose):
    oracle = byte_level(prose[:10], [split(PATTERNS["llama3"])])
    oracle.add_special_tokens(["<s>", "</s>"])
    ids = {t: oracle.token_to_id(t) for t in ("<s>", "</s>")}
    template = processors.TemplateProcessing(single="<s> $A </s>", pair="<s> $A </s> <s> $B </s>", special_tokens=list(ids.items()))
    for i, post in enumerate([template, processors.Sequence([processors.ByteLevel(trim_offsets=False), template]),
                              processors.RobertaProcessing(("</s>", ids["</s>"]), ("<s>", ids["<s>"])), processors.ByteLevel(trim_offsets=True)]):
        oracle.post_processor = post
        for add in (False, True):
            check(tmp_path / f"{i}{add}", oracle, SAMPLES[:8], add_special=add)


def sentencepiece(prose, kind):
    """Llama 2's and Mistral's pipelines: characters, byte fallback, the space as U+2581."""
    trained = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trained.train_from_iterator(prose[:10], trainers.BpeTrainer(vocab_size=700, show_progress=False, special_tokens=["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]))
    description = json.loads(trained.to_str())
    description["added_tokens"] = [t for t in description["added_tokens"] if not t["content"].startswith("<0x")]
    out = Tokenizer.from_str(json.dumps(description))
    if kind == "normalizer":
        out.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        out.pre_tokenizer = None
    elif kind == "gemma":
        out.normalizer = normalizers.Replace(" ", "▁")
        out.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    else:
        out.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=kind, split=kind != "first")
    strip = [] if kind == "gemma" else [decoders.Strip(" ", 1, 0)]
    out.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()] + strip)
    if kind == "always":
        out.decoder = decoders.Metaspace(prepend_scheme="always")
    if kind == "never":
        out.decoder = None
    return out


@pytest.mark.fast
@pytest.mark.parametrize("kind", ["normalizer", "gemma", "first", "always", "never"])
def test_sentencepiece_style(tmp_path, prose, kind):
    oracle = sentencepiece(prose, kind)
    check(tmp_path, oracle, SAMPLES + ["<s>a b</s> c", " <s> x", "▁a▁▁b"] + prose[10:20] + random_texts(kind, 500))


def test_no_fallback_and_unknown(tmp_path, prose):
    for fuse in (False, True):
        oracle = Tokenizer(models.BPE({"<unk>": 0, "a": 1, "b": 2, "ab": 3, "<0x41>": 4}, [("a", "b")], unk_token="<unk>", fuse_unk=fuse, byte_fallback=True))
        check(tmp_path / str(fuse), oracle, ["ab", "axxb", "xaby", "AAé", "A", "zAz", "xyzab"])


@pytest.mark.fast
def test_random_ids_decode_alike(tmp_path, prose):
    rng = random.Random(5)
    for i, oracle in enumerate([byte_level(prose[:10], [split(PATTERNS["qwen2"])]), sentencepiece(prose, "normalizer"), sentencepiece(prose, "always"), sentencepiece(prose, "never")]):
        oracle.add_tokens(ADDED)
        folder = tmp_path / str(i)
        folder.mkdir()
        oracle.save(str(folder / "tokenizer.json"))
        n = oracle.get_vocab_size()
        lists = [[rng.randrange(n + 5) for _ in range(rng.choice([0, 1, 2, 5, 40]))] for _ in range(1500)]
        lists += [[rng.randrange(min(n, 300)) for _ in range(8)] for _ in range(1500)]
        for skip in (False, True):
            decoded = text_tool.byte_frames(text_tool.run(["decode", folder, *(["--skip"] if skip else [])], lists))
            for ids, got in zip(lists, decoded):
                assert got.decode() == oracle.decode(ids, skip_special_tokens=skip), ids


@pytest.mark.fast
def test_ill_formed_utf8_is_read_as_replacement_characters(tmp_path, prose):
    oracle = byte_level(prose[:10], [split(PATTERNS["qwen2"])])
    oracle.save(str(tmp_path / "tokenizer.json"))
    rng = random.Random(9)
    texts = [bytes(rng.choice([rng.randrange(256), 0x61, 0xE4, 0xBD, 0xA0, 0xF0, 0x9F, 0xED, 0xA0, 0xC0]) for _ in range(rng.choice([1, 2, 3, 4, 9, 40]))) for _ in range(3000)]
    got = text_tool.id_frames(text_tool.run(["encode", tmp_path], texts))
    assert got == [oracle.encode(t.decode("utf-8", errors="replace")).ids for t in texts]


@pytest.mark.fast
def test_demo_tokenizer(demo, prose):
    oracle = Tokenizer.from_file(str(demo / "base" / "tokenizer.json"))
    texts = SAMPLES + prose + random_texts("demo", 2000)
    got = text_tool.id_frames(text_tool.run(["encode", demo / "base"], [t.encode() for t in texts]))
    assert got == [e.ids for e in oracle.encode_batch(texts)]


@pytest.mark.fast
@pytest.mark.parametrize("change, message", [
    (lambda d: d["model"].update(type="Unigram"), "model 'Unigram' is not supported"),
    (lambda d: d["model"].update(dropout=0.1), "dropout is not supported"),
    (lambda d: d["model"].update(end_of_word_suffix="</w>"), "end_of_word_suffix '</w>' is not supported"),
    (lambda d: d["model"]["merges"].append(["zz", "qq"]), "not in the vocabulary"),
    (lambda d: d["model"]["merges"].append("a b c"), "wanted two tokens and a space"),
    (lambda d: d["model"]["vocab"].update(bad=-1), "the id of token 'bad'"),
    (lambda d: d.update(normalizer={"type": "BertNormalizer"}), "normalizer 'BertNormalizer' is not supported"),
    (lambda d: d.update(pre_tokenizer={"type": "UnicodeScripts"}), "pre-tokenizer 'UnicodeScripts' is not supported"),
    (lambda d: d.update(pre_tokenizer={"type": "Split", "pattern": {"Regex": "(?<n>a)"}, "behavior": "Isolated", "invert": False}), "which is not supported"),
    (lambda d: d.update(pre_tokenizer={"type": "Split", "pattern": {"Regex": "a**"}, "behavior": "Isolated", "invert": False}), "pattern 'a**'"),
    (lambda d: d.update(pre_tokenizer={"type": "Split", "pattern": {"Regex": "a{,3}"}, "behavior": "Isolated", "invert": False}), "uses '{,'"),
    (lambda d: d.update(pre_tokenizer={"type": "Split", "pattern": {"Regex": "a{1,3}+"}, "behavior": "Isolated", "invert": False}), "uses '}+'"),
    (lambda d: d.update(decoder={"type": "WordPiece", "prefix": "##", "cleanup": True}), "decoder 'WordPiece' is not supported"),
    (lambda d: d.update(post_processor={"type": "Foo"}), "post-processor 'Foo' is not supported"),
    (lambda d: d.pop("model"), "'model' is missing"),
    (lambda d: d["model"].pop("vocab"), "'vocab' is missing"),
])
def test_unsupported_components_are_named(tmp_path, prose, change, message):
    description = json.loads((ROOT / "demo" / "base" / "tokenizer.json").read_text())
    change(description)
    (tmp_path / "tokenizer.json").write_text(json.dumps(description))
    with pytest.raises(AssertionError) as error:
        text_tool.run(["encode", tmp_path], [b"x"])
    assert message in str(error.value), error.value


def test_long_words(tmp_path, prose):
    """Ten megabytes without a place to cut: time must not grow with the square, and the ids must be right."""
    oracle = byte_level(prose[:10], [split(PATTERNS["qwen2"])])
    oracle.save(str(tmp_path / "tokenizer.json"))
    rng = random.Random(3)
    shared = "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(300_000))
    texts = ["a" * 500_000, "".join(rng.choice("etaoinshrdlu") for _ in range(10_000_000)), shared, "é" * 200_000, "-" * 300_000]
    got = text_tool.id_frames(text_tool.run(["encode", tmp_path], [t.encode() for t in texts]))
    assert got[0] == oracle.encode(texts[0]).ids and got[2] == oracle.encode(shared).ids and got[3] == oracle.encode(texts[3]).ids and got[4] == oracle.encode(texts[4]).ids
    assert oracle.decode(got[1]) == texts[1]


@pytest.mark.parametrize("kind", ["qwen2", "four_digits", "deepseek", "normalizer", "first"])
def test_long_runs_of_one_character(tmp_path, prose, kind):
    """Millions of times the same, in pipelines that cut it and in pipelines that do not."""
    if kind in ("normalizer", "first"):
        oracle = sentencepiece(prose, kind)
    else:
        oracle = byte_level(prose[:5], [split(p) for p in (DEEPSEEK if kind == "deepseek" else [PATTERNS[kind]])], vocab=400)
    oracle.save(str(tmp_path / "tokenizer.json"))
    short, long = 4_000, 3_000_000
    for character in "a \n-中\x01":
        (few,) = text_tool.id_frames(text_tool.run(["encode", tmp_path], [(character * short).encode()]))
        assert few == oracle.encode(character * short).ids
    frames = [("a" * long).encode(), (" " * (long // 2) + "x").encode(), ("中" * (long // 3)).encode()]
    for frame, ids in zip(frames, text_tool.id_frames(text_tool.run(["encode", tmp_path], frames)), strict=True):
        assert oracle.decode(ids).strip() == frame.decode().strip()


def test_a_million_added_tokens(tmp_path, prose):
    oracle = byte_level(prose[:5], [split(PATTERNS["qwen2"])], vocab=300)
    oracle.add_tokens([AddedToken("<|x|>", normalized=False), AddedToken("\n", lstrip=True, rstrip=True, normalized=False), AddedToken("é", single_word=True), AddedToken("aa", normalized=True)])
    oracle.save(str(tmp_path / "tokenizer.json"))
    token = oracle.token_to_id
    texts = ["<|x|>" * 1_000_000, "\n" * 1_000_000, "aa" * 1_000_000, " é" * 300_000, ("<" * 50 + "|x") * 30_000]
    got = text_tool.id_frames(text_tool.run(["encode", tmp_path], [t.encode() for t in texts]))
    assert got[0] == [token("<|x|>")] * 1_000_000 and got[1] == [token("\n")] and got[2] == [token("aa")] * 1_000_000
    assert got[3] == oracle.encode(texts[3]).ids and got[4] == oracle.encode(texts[4]).ids
    spans = text_tool.span_frames(text_tool.run(["offsets", tmp_path], [texts[0].encode()]))[0]
    assert spans == [(token("<|x|>"), 5 * i, 5 * i + 5) for i in range(1_000_000)]
