"""`ponte generate` and `verify --forward` against transformers: greedy tokens, batches, stopping, sampling, streaming, chat."""
import json
import os
import subprocess

import pytest

from conftest import BIN

PROMPTS = [
    "The", "Free software is", "To configure the network interface,", "A hacker is a person who", "The package manager apt",
    "When the system boots, the kernel", "é", "日本語のテキスト", "def main():\n    return", "1234567890", "   leading spaces", "trailing spaces   ",
    "A line\nand another\n\nand a third", "CAPITALS AND lower", "https://example.org/path?x=1", "“Quoted” — with dashes…", "🙂 emoji 👩‍👩‍👧",
    "Long prompt: " + "the quick brown fox jumps over the lazy dog, " * 20, "\t\ttabs", "The end.",
]


def greedy_of_transformers(model, tokenizer, prompt, count):
    import torch
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    with torch.no_grad():
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, min_new_tokens=count, do_sample=False, eos_token_id=None,
                             pad_token_id=0)
    return out[0, ids.shape[1]:].tolist()


def tokenizer_of(folder):
    from transformers import AutoTokenizer
    return AutoTokenizer.from_pretrained(folder)


def generate_json(ponte, folder, prompts, *flags, **kwargs):
    arguments = [word for prompt in prompts for word in ("--prompt", prompt)]
    result = ponte("generate", "--hf-model-path", folder, "--json", *arguments, *flags, **kwargs)
    return [json.loads(line) for line in result.out.splitlines()]


MODELS = {
    "qwen3": dict(kind="qwen3"),
    "qwen3 tied, theta 1e6": dict(kind="qwen3", tie_word_embeddings=True, rope_theta=1e6),
    "qwen2": dict(kind="qwen2"),
    "qwen2 yarn": dict(kind="qwen2", rope_parameters={"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}),
}


@pytest.mark.parametrize("name", MODELS)
def test_greedy_equals_transformers(ponte, tiny, name):
    changes = dict(MODELS[name])
    folder, model = tiny(changes.pop("kind"), **changes)
    tokenizer = tokenizer_of(folder)
    ours = generate_json(ponte, folder, PROMPTS, "--max-new-tokens", 64, "--ignore-eos", "--batch-size", 7)
    for prompt, line in list(zip(PROMPTS, ours, strict=True))[:20 if name in ("qwen3", "qwen2") else 5]:
        assert line["tokens"] == greedy_of_transformers(model, tokenizer, prompt, 64), prompt
        assert line["text"] == tokenizer.decode(line["tokens"], skip_special_tokens=True), prompt


def test_a_batch_gives_what_single_prompts_give(ponte, tiny):
    folder, _ = tiny()
    together = generate_json(ponte, folder, PROMPTS, "--max-new-tokens", 24, "--temperature", 0.8, "--seed", 5, "--batch-size", 20)
    small = generate_json(ponte, folder, PROMPTS, "--max-new-tokens", 24, "--temperature", 0.8, "--seed", 5, "--batch-size", 3)
    assert [line["tokens"] for line in together] == [line["tokens"] for line in small]


def test_megatron_checkpoint_generates_the_same(ponte, tiny, tmp_path):
    folder, _ = tiny()
    ponte("import", "--hf-model", folder, "--megatron-path", tmp_path / "mcore")
    flags = ("--max-new-tokens", "32", "--prompt", "A hacker is")
    ours = ponte("generate", "--hf-model-path", folder, *flags).out
    assert ponte("generate", "--megatron-model-path", tmp_path / "mcore", *flags).out == ours
    assert ponte("generate", "--hf-model-path", folder, "--megatron-model-path", tmp_path / "mcore", *flags).out == ours
    (tmp_path / "mcore" / "iter_0000000").rename(tmp_path / "mcore" / "release")  # as Megatron-LM's converters name it
    (tmp_path / "mcore" / "latest_checkpointed_iteration.txt").write_text("release")
    assert ponte("generate", "--megatron-model-path", tmp_path / "mcore", *flags).out == ours


def test_bf16_logits_lead_to_transformers_tokens_mostly(ponte, tiny):
    """bf16 rounds differently in every kernel order, so only agreement at the start is required: the first token of nearly every prompt."""
    import torch
    folder, model = tiny(dtype="bfloat16")
    tokenizer = tokenizer_of(folder)
    ours = generate_json(ponte, folder, PROMPTS, "--max-new-tokens", 1, "--ignore-eos")
    exact = model.float()
    same = sum(line["tokens"] == greedy_of_transformers(exact, tokenizer, prompt, 1) for prompt, line in zip(PROMPTS, ours, strict=True))
    assert same >= len(PROMPTS) - 2
    assert torch.get_default_dtype() == torch.float32


def test_stopping(ponte, tiny):
    folder, model = tiny()
    tokenizer = tokenizer_of(folder)
    free = generate_json(ponte, folder, ["The package"], "--max-new-tokens", 40, "--ignore-eos")[0]
    assert free["finish_reason"] == "length" and len(free["tokens"]) == 40
    cut = free["text"][len(free["text"]) // 2:][:6]
    stopped = generate_json(ponte, folder, ["The package"], "--max-new-tokens", 40, "--ignore-eos", "--stop", cut, "--stop", "never met")[0]
    assert stopped["finish_reason"] == "stop_string"
    assert stopped["text"] == free["text"][:free["text"].index(cut)]
    stop_id = free["tokens"][10]
    first = free["tokens"].index(stop_id)
    folder_config = json.loads((folder / "generation_config.json").read_text())
    other = folder.parent / "stopping"
    other.mkdir()
    for file in folder.iterdir():
        (other / file.name).symlink_to(file) if file.name != "generation_config.json" else None
    for eos in (stop_id, [8191, stop_id]):
        (other / "generation_config.json").write_text(json.dumps({**folder_config, "eos_token_id": eos}))
        line = generate_json(ponte, other, ["The package"], "--max-new-tokens", 40)[0]
        assert line["finish_reason"] == "stop_token" and line["tokens"] == free["tokens"][:first + 1]
        assert line["text"] == tokenizer.decode(free["tokens"][:first])
    ponte("import", "--hf-model", other, "--megatron-path", folder.parent / "stopping_native")  # which carries generation_config.json
    result = ponte("generate", "--megatron-model-path", folder.parent / "stopping_native", "--json", "--prompt", "The package", "--max-new-tokens", 40)
    assert json.loads(result.out)["tokens"] == free["tokens"][:first + 1]


def test_stdout_holds_the_text_and_nothing_else(ponte, tiny):
    folder, _ = tiny()
    line = generate_json(ponte, folder, ["日本 The"], "--max-new-tokens", 30, "--ignore-eos")[0]
    flags = ("generate", "--hf-model-path", folder, "--prompt", "日本 The", "--max-new-tokens", 30, "--ignore-eos")
    assert ponte(*flags).out == "日本 The" + line["text"] + "\n"
    assert ponte(*flags, "--no-echo").out == line["text"] + "\n"
    assert ponte(*flags, "--stream").out == "日本 The" + line["text"] + "\n"
    assert ponte(*flags, "--stream", "--no_echo").out == line["text"] + "\n"  # underscores as well


def test_streaming_never_breaks_a_character(tiny):
    """Every piece that can be read from stdout while the program runs is whole UTF-8."""
    import codecs
    folder, _ = tiny(std=0.4)  # wild weights: many partial characters
    command = [str(BIN / "ponte"), "generate", "--hf-model-path", str(folder), "--prompt", "日本語", "--max-new-tokens", "200", "--ignore-eos", "--stream",
               "--temperature", "3", "--seed", "3"]
    end, start = os.pipe2(os.O_DIRECT)  # a read takes one write, however many are waiting
    traced = subprocess.Popen(command, stdout=start, stderr=subprocess.DEVNULL)
    os.close(start)
    decoder, pieces = codecs.getincrementaldecoder("utf-8")("strict"), 0
    while piece := os.read(end, 65536):
        decoder.decode(piece)
        assert decoder.getstate()[0] == b"", f"a piece ends inside a character: {piece!r}"
        pieces += 1
    os.close(end)
    assert traced.wait() == 0 and pieces > 3


def test_prompt_files(ponte, tiny, tmp_path):
    folder, _ = tiny()
    wanted = generate_json(ponte, folder, ["one prompt", "another"], "--max-new-tokens", 8)
    (tmp_path / "prompts.txt").write_text("one prompt\n\nanother\r\n")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "one prompt"}\n{"prompt": "another"}\n')
    for name in ("prompts.txt", "prompts.jsonl"):
        out = ponte("generate", "--hf-model-path", folder, "--json", "--prompt-file", tmp_path / name, "--max-new-tokens", 8).out
        assert [json.loads(line) for line in out.splitlines()] == wanted
    for record, message in (({"text": "two"}, "'prompt' is missing"), ({"messages": "two"}, '"messages" is not a list'), ({"messages": [{"role": "user"}]}, "no attribute 'content'")):
        (tmp_path / "bad.jsonl").write_text('{"prompt": "one"}\n' + json.dumps(record) + "\n")
        error = ponte("generate", "--hf-model-path", folder, "--prompt-file", tmp_path / "bad.jsonl", code=1).err
        assert "bad.jsonl line 2: " in error and message in error, error
    assert "a folder; a file with prompts is wanted" in ponte("generate", "--hf-model-path", folder, "--prompt-file", tmp_path, code=1).err


def test_chat_template(ponte, tiny, tmp_path):
    folder, model = tiny()
    tokenizer = tokenizer_of(folder)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is apt?"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    line = generate_json(ponte, folder, ["What is apt?"], "--max-new-tokens", 16, "--ignore-eos", "--apply-chat-template", "--system", "Be brief.")[0]
    assert line["prompt_tokens"] == len(tokenizer(text, add_special_tokens=False).input_ids)
    assert line["tokens"] == greedy_of_transformers(model, tokenizer, text, 16)
    (tmp_path / "chat.jsonl").write_text(json.dumps({"messages": messages}) + "\n")
    out = ponte("generate", "--hf-model-path", folder, "--json", "--prompt-file", tmp_path / "chat.jsonl", "--max-new-tokens", 16, "--ignore-eos").out
    assert json.loads(out)["tokens"] == line["tokens"]


def test_chat_reuses_its_context(tiny):
    """Two turns of `ponte chat`: the second reply is what transformers says after the whole dialogue."""
    folder, model = tiny()
    tokenizer = tokenizer_of(folder)
    process = subprocess.run([str(BIN / "ponte"), "chat", "--hf-model-path", str(folder), "--max-new-tokens", "12"],
                             input="Hello there\nAnd again\n", capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    messages, wanted = [], ""
    for said in ("Hello there", "And again"):
        messages.append({"role": "user", "content": said})
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = greedy_of_transformers(model, tokenizer, text, 12)
        stops = [i for i, token in enumerate(ids) if token in (8189, 8191)]
        reply = tokenizer.decode(ids[:stops[0]] if stops else ids, skip_special_tokens=True)
        messages.append({"role": "assistant", "content": reply})
        wanted += reply + "\n"
    assert process.stdout == wanted


def test_chat_goes_on_when_its_context_is_full(tiny):
    folder, _ = tiny()

    def chat(*lines):
        process = subprocess.run([str(BIN / "ponte"), "chat", "--hf-model-path", str(folder), "--max-new-tokens", "1000", "--max-context", "40"],
                                 input="".join(line + "\n" for line in lines), capture_output=True, text=True)
        assert process.returncode == 0, process.stderr
        return process.stdout, process.stderr

    reply, said = chat("Hello there")
    assert "the conversation has all the 40 tokens that it may have; /reset" in said and "not answered" not in said
    replies, said = chat("Hello there", "And again", "word " * 50, "/reset", "word " * 50, "Hello there")
    assert replies == 2 * reply and said.count("not answered") == 3 and "of 40 that it may have; /reset" in said
    assert chat("word " * 50, "Hello there")[0] == reply  # what was not answered is no part of the conversation


SAMPLING = {
    "temperature": dict(temperature=0.7),
    "top_k": dict(temperature=1.0, top_k=8),
    "top_p": dict(temperature=1.0, top_p=0.7),
    "min_p": dict(temperature=1.0, min_p=0.3),
    "all": dict(temperature=1.3, top_k=40, top_p=0.8, min_p=0.1),
}


@pytest.mark.parametrize("name", SAMPLING)
def test_draws_follow_the_distribution_of_transformers(ponte, tiny, tmp_path, name):
    """2,000 draws of one token against the probabilities transformers' own warpers leave: chi-square, and no token outside."""
    import torch
    import transformers
    options = SAMPLING[name]
    folder, model = tiny(std=0.15)
    tokenizer = tokenizer_of(folder)
    draws = 2000
    (tmp_path / "prompts.txt").write_text("The kernel\n" * draws)
    flags = [word for key, value in options.items() for word in (f"--{key}", value)]
    out = ponte("generate", "--hf-model-path", folder, "--json", "--prompt-file", tmp_path / "prompts.txt", "--max-new-tokens", 1, "--ignore-eos", "--seed", 11,
                "--batch-size", 500, *flags).out
    counts = {}
    for line in out.splitlines():
        token = json.loads(line)["tokens"][0]
        counts[token] = counts.get(token, 0) + 1
    ids = tokenizer("The kernel", return_tensors="pt").input_ids
    with torch.no_grad():
        logits = model(ids).logits[:, -1]
    warpers = [transformers.TemperatureLogitsWarper(options["temperature"])]
    warpers += [transformers.TopKLogitsWarper(options["top_k"])] if "top_k" in options else []
    warpers += [transformers.TopPLogitsWarper(options["top_p"])] if "top_p" in options else []
    warpers += [transformers.MinPLogitsWarper(options["min_p"])] if "min_p" in options else []
    for warper in warpers:
        logits = warper(ids, logits)
    probability = torch.softmax(logits[0].double(), -1)
    assert sum(counts.values()) == draws
    assert all(probability[token] > 0 for token in counts), "a token was drawn that transformers excludes"
    # cells of expected count >= 5, the rest together; Wilson-Hilferty bound at one in ten thousand
    expected = probability * draws
    cells = [(counts.get(i, 0), e.item()) for i, e in enumerate(expected) if e >= 5]
    rest = (draws - sum(c for c, _ in cells), draws - sum(e for _, e in cells))
    cells += [rest] if rest[1] > 1e-6 else []
    chi_square = sum((c - e) ** 2 / e for c, e in cells)
    freedom = max(1, len(cells) - 1)
    bound = freedom * (1 - 2 / (9 * freedom) + 3.72 * (2 / (9 * freedom)) ** 0.5) ** 3
    assert chi_square < bound, f"chi-square {chi_square:.1f} over {freedom} degrees of freedom, bound {bound:.1f}"


def test_seed_decides_the_draws(ponte, tiny):
    folder, _ = tiny()
    flags = ("--max-new-tokens", 20, "--temperature", 1.0)
    first, again, other = (generate_json(ponte, folder, ["The"], *flags, "--seed", seed)[0]["tokens"] for seed in (1, 1, 2))
    assert first == again != other


def test_text_ends_with_the_models_positions(ponte, tiny, tmp_path):
    """However much is asked for: no more than the positions hold, each prompt by its own length, and the cache grows with the text."""
    folder, model = tiny(max_position_embeddings=600)
    tokenizer = tokenizer_of(folder)
    prompts = ["The", "A longer prompt with more tokens than the first one has"]
    flags = ("--max-new-tokens", 10 ** 15, "--ignore-eos")
    lines = generate_json(ponte, folder, prompts, *flags)
    for line, prompt in zip(lines, prompts):
        assert len(line["tokens"]) == 600 - line["prompt_tokens"] and line["finish_reason"] == "length"
        assert line["tokens"][:32] == greedy_of_transformers(model, tokenizer, prompt, 32)
    said = ponte("generate", "--hf-model-path", folder, "--prompt", "The", *flags).err
    assert "the model has 600 positions" in said and "1000000000000000 asked for" in said
    assert "positions" not in ponte("generate", "--hf-model-path", folder, "--prompt", "The", "--max-new-tokens", 3).err
    (tmp_path / "long.txt").write_text("word " * 700)
    result = ponte("generate", "--hf-model-path", folder, "--prompt-file", tmp_path / "long.txt", code=1)
    assert "prompt 1: " in result.err and "positions for 600" in result.err
    result = ponte("chat", "--hf-model-path", folder, "--max-context", 601, code=1)
    assert "a context of 601 tokens wanted, the model has positions for 600" in result.err


ERRORS = {
    "threads": (["--hf-model-path", "MODEL", "--prompt", "x", "--threads", "-3"], "--threads"),
    "top_k": (["--hf-model-path", "MODEL", "--prompt", "x", "--top-k", "-1"], "--top-k"),
    "batch size": (["--hf-model-path", "MODEL", "--prompt", "x", "--batch-size", "0"], "--batch-size"),
    "no ranks": (["--hf-model-path", "MODEL", "--prompt", "x", "--pp", "0"], "--pp"),
    "no model": (["--prompt", "x"], "--hf-model-path"),
    "no prompt": (["--hf-model-path", "MODEL"], "--prompt"),
    "no such folder": (["--hf-model-path", "no/such/model/anywhere", "--prompt", "x"], "no/such/model/anywhere"),
    "empty prompt": (["--hf-model-path", "MODEL", "--prompt", ""], "prompt 1"),
    "negative count": (["--hf-model-path", "MODEL", "--prompt", "x", "--max-new-tokens", "-1"], "max-new-tokens"),
    "top_p": (["--hf-model-path", "MODEL", "--prompt", "x", "--top-p", "2"], "top_p"),
    "dtype": (["--hf-model-path", "MODEL", "--prompt", "x", "--torch-dtype", "int3"], "int3"),
    "misspelt flag": (["--hf-model-path", "MODEL", "--prompt", "x", "--max-new-token", "2"], "--max-new-tokens"),
    "adapters": (["--hf-model-path", "MODEL", "--prompt", "x", "--adapters", "a"], "adapters"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_name_what_is_wrong(ponte, tiny, name):
    arguments, named = ERRORS[name]
    folder, _ = tiny()
    result = ponte("generate", *[str(folder) if a == "MODEL" else a for a in arguments], code=1)
    assert named in result.err and result.err.startswith("error: ") and result.out == ""


def test_verify_forward(ponte, tiny, tmp_path):
    folder, _ = tiny()
    ponte("import", "--hf-model", folder, "--megatron-path", tmp_path / "mcore")
    result = ponte("verify", "--hf-model", folder, "--megatron-path", tmp_path / "mcore", "--forward", "--prompt", "The kernel", "--prompt", "é")
    assert "cosine" in result.out + result.err and "equal" in result.out + result.err
    other, _ = tiny(seed=99)
    assert ponte("verify-forward", "--hf-model", other, "--megatron-path", tmp_path / "mcore", code=1).err.count("DIFFERENT") == 1
