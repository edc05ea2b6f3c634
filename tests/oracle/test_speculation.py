"""`ponte generate --mtp`: guessing changes no token, and as many guesses are kept as a plain simulation of the scheme on transformers' modules keeps."""
import copy
import json
import re

import pytest
import torch
import transformers
from conftest import make_model
from test_convert_next import rewrite
from test_generate import generate_json, greedy_of_transformers, tokenizer_of
from test_moe_parity import one_by_one
from test_mtp_parity import Prediction, file_names

COUNT = 20
PROMPTS = ["A hacker is a person who", "日本語のテキスト", "def main():\n    return"]
LIKELY = [65, 66, 300]  # few likely tokens, so that random guesses are often right


@pytest.fixture(scope="module")
def guessing(tmp_path_factory):
    """guessing(depths) -> (folder, model, prediction layers)."""
    made = {}

    def get(depths):
        if depths in made:
            return made[depths]
        folder = tmp_path_factory.mktemp(f"depths{depths}")
        model = make_model(folder, "qwen3_next", std=0.15)
        with torch.no_grad():
            model.lm_head.weight[LIKELY] *= 8
        model.save_pretrained(folder)
        config = copy.deepcopy(model.config)
        config.layer_types, config.num_hidden_layers = ["full_attention"], 1
        config._attn_implementation = config._experts_implementation = "eager"
        torch.manual_seed(5)
        heads = torch.nn.ModuleList(Prediction(config) for _ in range(depths)).eval()
        with torch.no_grad():
            for p in heads.parameters():
                p.normal_(0, 0.15)
        state = {}
        for k, head in enumerate(heads):
            state |= file_names(k, one_by_one(dict(head.state_dict())))
        rewrite(folder, lambda tensors: tensors.update({name: t.clone() for name, t in state.items()}))
        made[depths] = folder, model, heads
        return made[depths]

    return get


@torch.no_grad()
def guesses_kept(model, heads, ids, prompt_length, guesses):
    """Runs the scheme over a text that is known, without any cache: (guesses made, guesses kept)."""
    hidden = model.model(input_ids=torch.tensor([ids[:-1]]), use_cache=False).last_hidden_state[0]

    def run(head, inputs, tokens):
        n = len(tokens)
        rotation = model.model.rotary_emb(inputs, torch.arange(n).unsqueeze(0))
        causal = torch.full((n, n), torch.finfo(torch.float32).min).triu(1)[None, None]
        return head(model.model.embed_tokens(torch.tensor([tokens])), inputs.unsqueeze(0), rotation, causal)[0]

    made = kept = 0
    read = prompt_length  # tokens the model has read; the next one is certain
    while read + 1 < len(ids):
        room = min(guesses, len(ids) - read - 2)  # a pass gives one token more than it keeps guesses
        text, inputs, guessed = list(ids[:read + 1]), hidden[:read], []
        for j in range(1, room + 1):
            depth = min(j, len(heads))
            if j > len(heads):  # the last depth goes on from its own hidden state
                inputs = torch.cat([inputs, out[-1:]])
            out = run(heads[depth - 1], inputs, text[depth:depth + len(inputs)])
            if j < len(heads):
                inputs = out
            guessed.append(int(model.lm_head(out[-1]).argmax()))
            text.append(guessed[-1])
        right = 0
        while right < room and guessed[right] == ids[read + 1 + right]:
            right += 1
        made, kept, read = made + room, kept + right, read + 1 + right
    return made, kept


@pytest.mark.parametrize("depths,guesses", [(1, 1), (1, 3), (2, 1), (2, 2), (2, 4)])
def test_the_same_tokens_and_as_many_guesses(depths, guesses, ponte, guessing):
    folder, model, heads = guessing(depths)
    tokenizer = tokenizer_of(folder)
    made = kept = 0
    for prompt in PROMPTS:
        asked = () if guesses == depths else (guesses,)
        arguments = ("generate", "--hf-model-path", folder, "--prompt", prompt, "--max-new-tokens", COUNT, "--ignore-eos")
        result = ponte(*arguments, "--json", "--mtp", *asked)
        wanted = greedy_of_transformers(model, tokenizer, prompt, COUNT)
        assert json.loads(result.out)["tokens"] == wanted, prompt
        ours = re.search(r"; (\d+) of (\d+) guessed tokens kept \((\d+\.\d) %\)", result.err)
        ids = tokenizer(prompt).input_ids
        theirs = guesses_kept(model, heads, ids + wanted, len(ids), guesses)
        assert (int(ours[2]), int(ours[1])) == theirs, prompt
        made, kept = made + theirs[0], kept + theirs[1]
    assert 0.02 * made < kept < 0.9 * made, (made, kept)
    together = generate_json(ponte, folder, PROMPTS, "--max-new-tokens", COUNT, "--ignore-eos", "--batch-size", 3, "--mtp", guesses)
    for prompt, line in zip(PROMPTS, together, strict=True):
        assert line["tokens"] == greedy_of_transformers(model, tokenizer, prompt, COUNT), prompt


def test_draws_are_the_same_too(ponte, guessing):
    """In fp64: a draw between two of thousands of unlikely tokens is decided by fp32's rounding, which depends on how many tokens a pass reads."""
    folder, _, _ = guessing(1)
    flags = ("--torch-dtype", "fp64", "--max-new-tokens", 40, "--temperature", 0.9, "--top-p", 0.95, "--seed", 4)
    assert generate_json(ponte, folder, PROMPTS, *flags, "--mtp", 2) == generate_json(ponte, folder, PROMPTS, *flags)


def test_golden_of_bridge(ponte, golden, tmp_path):
    """The golden's head, from either format, changes no token of transformers' (its tokenizer is a dummy: prompts are words it knows)."""
    folder = golden / "qwen3_next_mtp/hf"
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    tokenizer = tokenizer_of(folder)
    prompts = ["234", "ent dutar bet in", "on the"]
    common = ("--max-new-tokens", 40, "--ignore-eos", "--torch-dtype", "fp32", "--mtp", 1)
    for prompt, line in zip(prompts, generate_json(ponte, folder, prompts, *common), strict=True):
        assert line["tokens"] == greedy_of_transformers(model, tokenizer, prompt, 40), prompt


def test_without_prediction_layers(ponte, tiny):
    folder, _ = tiny("qwen3_next")
    result = ponte("generate", "--hf-model-path", folder, "--prompt", "x", "--mtp", code=1)
    assert "no prediction layers" in result.err
    for wrong in ("0", "-1", "two", "100"):
        assert ponte("generate", "--hf-model-path", folder, "--prompt", "x", "--mtp", wrong, code=1).err.startswith("error: ")
