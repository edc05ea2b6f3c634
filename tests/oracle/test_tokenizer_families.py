"""Each family's pipeline as a whole, put together as its published tokenizer.json is: normalizer, splits, model options, post-processor, decoder, added tokens."""
import json

import pytest
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers, processors

from test_tokenizer import DEEPSEEK, PATTERNS, SAMPLES, byte_level, check, prose, random_texts, sentencepiece, split  # noqa: F401  (prose is a fixture)

# name: (splits, normalizer, model options, what stands before a text, trimming byte-level step behind it, added tokens)
BYTE_LEVEL = {
    "qwen2": ([PATTERNS["qwen2"]], normalizers.NFC(), {}, "", False, ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>"]),
    "qwen3_next": ([PATTERNS["qwen3_next"]], normalizers.NFC(), {}, "", False, ["<|im_start|>", "<|im_end|>", "<tool_call>"]),
    "llama3": ([PATTERNS["llama3"]], None, {"ignore_merges": True}, "<|begin_of_text|>", True, ["<|eot_id|>", "<|start_header_id|>"]),
    "gpt_oss": ([PATTERNS["o200k"]], None, {"ignore_merges": True}, "", True, ["<|start|>", "<|channel|>", "<|message|>", "<|return|>"]),
    "deepseek_v3": (DEEPSEEK, normalizers.Sequence([]), {}, "<｜begin▁of▁sentence｜>", False, ["<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"]),
    "glm4_moe": ([PATTERNS["llama3"]], None, {}, "", False, ["[gMASK]", "<sop>", "<|user|>", "<|assistant|>"]),
    "tekken": ([PATTERNS["tekken"]], None, {"ignore_merges": True}, "<s>", False, ["[INST]", "[/INST]", "</s>"]),
    "olmoe": (None, normalizers.NFC(), {}, "", False, ["<|endoftext|>", "|||IP_ADDRESS|||", *(AddedToken(" " * n, normalized=True) for n in range(24, 1, -1))]),
}
SENTENCEPIECE = {
    "gemma": ("gemma", "<bos>", ["<start_of_turn>", "<end_of_turn>", *(AddedToken(t, normalized=False) for t in ("\n\n", "\n\n\n", "▁▁", "▁▁▁▁", "<b>"))]),
    "llama2": ("normalizer", "<s>", []),
    "mistral": ("first", "<s>", ["[INST]", "[/INST]"]),
}


def begins_with(oracle, token, steps=()):
    steps = list(steps)
    if token:
        oracle.add_special_tokens([token])
        steps.append(processors.TemplateProcessing(single=f"{token} $A", pair=f"{token} $A {token} $B", special_tokens=[(token, oracle.token_to_id(token))]))
    if steps:
        oracle.post_processor = processors.Sequence(steps) if len(steps) > 1 else steps[0]


def family(name, prose):
    if name in SENTENCEPIECE:
        kind, first, added = SENTENCEPIECE[name]
        oracle = sentencepiece(prose, kind)
        begins_with(oracle, first)
    else:
        splits, normalizer, options, first, trims, added = BYTE_LEVEL[name]
        oracle = byte_level(prose[:20], [split(p) for p in splits or []], normalizer=normalizer, vocab=900)
        if splits is None:
            oracle.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        description = json.loads(oracle.to_str())
        description["model"].update(options)
        if options.get("ignore_merges"):  # words that no merges make
            for word in ("Ġworld", "Hello", "Ġclock"):
                description["model"]["vocab"].setdefault(word, len(description["model"]["vocab"]))
        oracle = Tokenizer.from_str(json.dumps(description))
        begins_with(oracle, first, [processors.ByteLevel(trim_offsets=trims)])
    for token in added:
        oracle.add_tokens([token if isinstance(token, AddedToken) else AddedToken(token, special=True, normalized=False)])
    return oracle, [t if isinstance(t, str) else t.content for t in added]


@pytest.mark.fast
@pytest.mark.parametrize("name", [*BYTE_LEVEL, *SENTENCEPIECE])
def test_whole_pipelines(tmp_path, prose, name):
    oracle, added = family(name, prose)
    chats = [f"{a}user{b}Hello world's CamelCase HTTPServer\n// x{a} {b}  end" for a in added for b in added[:3]]
    texts = SAMPLES + prose[20:30] + chats + random_texts(name, 250)
    check(tmp_path / "with", oracle, texts)
    check(tmp_path / "without", oracle, texts[:60], add_special=False)
