"""Makes the demo's assets from three Debian packages: prose.jsonl.gz, book.jsonl.gz, base/ (tokenizer, configuration, seeded random weights).
The weights were then trained with pretrain.yaml (see README.md).

usage: make_assets.py UNPACKED_PACKAGES OUT     (dpkg -x debian-handbook, debian-reference-en and jargon-text into UNPACKED_PACKAGES)
Needs tokenizers, transformers and torch. The result is kept in the repository; this file says how it came about.
"""
import gzip
import html
import json
import pathlib
import random
import re
import sys

VOCABULARY = 8192
# Qwen2's pre-tokenizer pattern, as in its tokenizer.json.
PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT_TEMPLATE = (
    "{%- for message in messages %}\n"
    "    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n"
    "    {{- '<|im_start|>assistant\\n' }}\n"
    "{%- endif %}\n")


def prose_of_html(page: str) -> str:
    page = re.sub(r"<(script|style|head|pre)[^>]*>.*?</\1>|<!--.*?-->", "", page, flags=re.S | re.I)
    page = re.sub(r"</(p|h\d|li|tr|div|dt|dd|table)>", "\n", page, flags=re.I)
    text = html.unescape(re.sub(r"<[^>]+>", " ", page)).replace("\xa0", " ")
    lines = [re.sub(r"\s+", " ", line).strip() for line in text.split("\n")]
    return "\n".join(line for line in lines if len(line) > 40 and not re.match(r"^(Prev|Next|Home|Product Site)\b", line))


def documents(root: pathlib.Path):
    for page in sorted((root / "usr/share/doc/debian-handbook/html/en-US").glob("*.html")):
        yield "debian-handbook", prose_of_html(page.read_text())
    for page in sorted((root / "usr/share/debian-reference").glob("ch*.en.html")):
        text = prose_of_html(page.read_text())
        for part in re.split(r"\n(?=\d+\.\d+\.)", text):
            yield "debian-reference", part
    jargon = gzip.decompress((root / "usr/share/doc/jargon-text/jargon.txt.gz").read_bytes()).decode("utf-8", "replace")
    paragraphs = [re.sub(r"\s+", " ", part).strip() for part in re.split(r"\n\s*\n", jargon)]
    entry = []
    for paragraph in paragraphs:  # a heading is a short line; of headings in a row (contents pages) only the last stays
        heading = len(paragraph) < 60
        if heading and sum(map(len, entry)) > 2000:
            yield "jargon", "\n".join(entry)
            entry = []
        if heading and entry and len(entry[-1]) < 60:
            entry.pop()
        entry.append(paragraph)
    yield "jargon", "\n".join(entry)


def train_tokenizer(texts, folder: pathlib.Path):
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast
    tokenizer = Tokenizer(models.BPE(byte_fallback=False, fuse_unk=False))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), behavior="isolated", invert=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tokenizer.add_special_tokens(SPECIAL)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>", bos_token=None)
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    return fast


def random_model(tokenizer, folder: pathlib.Path):
    import torch
    from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM
    torch.manual_seed(1234)
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    config = Qwen3Config(vocab_size=VOCABULARY, hidden_size=160, intermediate_size=480, num_hidden_layers=4, num_attention_heads=4,
                         num_key_value_heads=2, head_dim=40, max_position_embeddings=1024, tie_word_embeddings=True, rope_theta=10000.0,
                         bos_token_id=None, eos_token_id=end, pad_token_id=end)
    model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=[end, tokenizer.convert_tokens_to_ids("<|im_end|>")], pad_token_id=end)
    model.to(torch.bfloat16).save_pretrained(folder)


def main():
    root, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    found = [(source, text) for source, text in documents(root) if len(text) > 200]
    random.Random(7).shuffle(found)
    out.mkdir(parents=True, exist_ok=True)
    for name, sources in (("prose", ("debian-handbook", "jargon")), ("book", ("debian-reference",))):
        lines = "".join(json.dumps({"text": text, "source": source}, ensure_ascii=False) + "\n" for source, text in found if source in sources)
        (out / f"{name}.jsonl.gz").write_bytes(gzip.compress(lines.encode(), 9, mtime=0))
    sizes = {source: sum(len(t.encode()) for s, t in found if s == source) for source, _ in found}
    print(len(found), "documents,", sizes, "bytes of text")
    tokenizer = train_tokenizer([text for _, text in found], out / "base")
    random_model(tokenizer, out / "base")


if __name__ == "__main__":
    main()
