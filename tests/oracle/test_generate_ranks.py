"""`ponte generate` and `ponte chat` over ranks give the tokens of one process: tensor, pipeline, expert and expert-tensor parallel, dense, sparse and hybrid models."""
import os
import pty
import subprocess
import sys

import pytest

from conftest import BIN
from test_generate import PROMPTS, generate_json
from training import ONE_THREAD

LAYOUTS = {
    "qwen3": [("--tp", 2), ("--pp", 2), ("--tp", 2, "--pp", 2), ("--tp", 4), ("--pp", 3)],  # tp 4: two ranks to a query group; pp 3: stages of 2, 1 and 1 layers
    "qwen3_moe": [("--tp", 2, "--pp", 2), ("--ep", 2), ("--tp", 2, "--ep", 2), ("--tp", 2, "--etp", 2)],
    "qwen3_next": [("--tp", 2), ("--pp", 2, "--ep", 2)],
}


@pytest.mark.parametrize("kind", LAYOUTS)
def test_tokens_of_one_process(ponte, tiny, kind):
    folder, _ = tiny(kind, num_hidden_layers=4)
    flags = ("--max-new-tokens", 16, "--ignore-eos", "--batch-size", 3, "--threads", 1)
    prompts = PROMPTS[:5] + PROMPTS[17:18]
    one = generate_json(ponte, folder, prompts, *flags, env=ONE_THREAD)
    for layout in LAYOUTS[kind]:
        assert generate_json(ponte, folder, prompts, *flags, *layout, env=ONE_THREAD) == one, layout


def test_draws_stops_and_streams_as_one_process(ponte, tiny):
    folder, _ = tiny("qwen3", num_hidden_layers=4)
    drawn = ("--max-new-tokens", 24, "--temperature", 0.8, "--seed", 5)
    assert generate_json(ponte, folder, PROMPTS[:3], *drawn, "--tp", 2) == generate_json(ponte, folder, PROMPTS[:3], *drawn)
    streaming = ("generate", "--hf-model-path", folder, "--max-new-tokens", 12, "--stream", "--prompt", "The", "--prompt", "A")
    assert ponte(*streaming, "--pp", 2).out == ponte(*streaming).out


def test_standard_input_and_megatron_checkpoints(ponte, tiny, tmp_path):
    folder, _ = tiny("qwen3", num_hidden_layers=4)
    ponte("import", "--hf-model", folder, "--megatron-path", tmp_path / "m", "--ckpt-format", "fsdp_dtensor")
    command = [BIN / "ponte", "generate", "--megatron-model-path", tmp_path / "m", "--prompt-file", "-", "--max-new-tokens", "8"]
    outputs = {subprocess.run([*map(str, command), *more], input="A hacker is", text=True, capture_output=True, check=True,
                              env={**os.environ, **ONE_THREAD}).stdout for more in ([], ["--tp", "2"], ["--pp", "2", "--nproc-per-node", "2"])}
    assert len(outputs) == 1 and outputs.pop().startswith("A hacker is")


def test_errors_are_said_once(ponte, tiny):
    folder, _ = tiny("qwen3", num_hidden_layers=4)
    for flags, words in ((("--tp", 3), "3"), (("--tp", 2, "--nproc-per-node", 3), "3"), (("--pp", 2, "--prompt-file", "/nowhere"), "cannot be opened")):
        result = ponte("generate", "--hf-model-path", folder, "--prompt", "x", *flags, code=1)
        assert result.err.count("error:") == 1 and words in result.err, result.err
        assert result.out == ""


def test_a_size_that_does_not_fit_is_said_with_those_that_do(ponte, tiny):
    dense, sparse = tiny("qwen3", num_attention_heads=6, num_key_value_heads=3, intermediate_size=192)[0], tiny("qwen3_moe", num_hidden_layers=4)[0]
    cases = [(dense, "--tp", 2, "model.num_query_groups 3 and tensor_model_parallel_size 2: neither divides the other; --tp of this model can be one of [1, 3, 6]"),
             (sparse, "--ep", 3, "model.num_moe_experts 8 is not a multiple of model.expert_model_parallel_size 3; --ep of this model can be one of [1, 2, 4, 8]"),
             (sparse, "--etp", 5, "model.moe_ffn_hidden_size 48 is not a multiple of expert_tensor_parallel_size 5; --etp of this model can be one of [1, 2, 3")]
    for folder, flag, size, words in cases:
        result = ponte("generate", "--hf-model-path", folder, "--prompt", "x", flag, size, code=1)
        assert f"error: {flag} {size}: {words}" in result.err, result.err


def chat_command(folder, *more):
    return [str(BIN / "ponte"), "chat", "--hf-model-path", str(folder), "--max-new-tokens", "12", *more]


@pytest.mark.parametrize("kind", LAYOUTS)
def test_a_dialogue_of_one_process(tiny, kind):
    folder, _ = tiny(kind, num_hidden_layers=4)

    def talk(*layout):
        done = subprocess.run(chat_command(folder, "--temperature", "0.8", *map(str, layout)), input="Hello there\n\nAnd again\n/reset\nHello there\n" + "word " * 2000, text=True,
                              capture_output=True, env={**os.environ, **ONE_THREAD})
        assert done.returncode == 0, done.stderr
        return done.stdout, [line for line in done.stderr.splitlines() if "[rank" not in line]

    one = talk()
    assert len(one[0]) > 20 and "not answered" in one[1][-1]
    for layout in LAYOUTS[kind][:2]:
        assert talk(*layout) == one, layout


def test_a_dialogue_over_ranks_reads_the_terminal(tiny):
    """Rank 0 may read it, and leaves at the dialogue's end."""
    folder, _ = tiny("qwen3", num_hidden_layers=4)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(["setsid", "--ctty", "--wait", *chat_command(folder, "--tp", "2")], stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               env={**os.environ, **ONE_THREAD})
    os.write(ours, b"Hello\n/exit\n")
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 0 and "cut after 12 tokens" in said, said


def test_errors_of_a_dialogue_are_said_once(ponte, tiny):
    folder, _ = tiny("qwen3", num_hidden_layers=4)
    for flags, words in ((("--tp", 3), "tensor_model_parallel_size 3"), (("--tp", 2, "--max-context", 5000), "context of 5000 tokens")):
        result = ponte("chat", "--hf-model-path", folder, *flags, code=1)
        assert result.err.count("error:") == 1 and words in result.err, result.err


def peak_kib(*command):
    """Of the largest process among a command's ranks."""
    script = ("import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL);"
              "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)")
    return int(subprocess.run([sys.executable, "-c", script, BIN / "ponte", *map(str, command)], check=True, text=True, capture_output=True,
                              env={**os.environ, **ONE_THREAD}).stdout)


def test_a_rank_holds_its_shard_alone(tiny):
    """Peak memory of the largest of four ranks over that of a model of no size, against the same of one process: a quarter each, and pages in between."""
    nothing, _ = tiny("qwen3", num_hidden_layers=4)
    model, _ = tiny("qwen3", num_hidden_layers=8, hidden_size=512, intermediate_size=2048, num_attention_heads=8, num_key_value_heads=4, head_dim=64)
    flags = ("--max-new-tokens", 1, "--prompt", "The", "--threads", 1)
    peaks = {}
    for name, folder in (("nothing", nothing), ("model", model)):
        peaks[name] = [peak_kib("generate", "--hf-model-path", folder, *flags, *layout) for layout in ((), ("--tp", 2, "--pp", 2))]
    one, four = (peaks["model"][i] - peaks["nothing"][i] for i in range(2))
    weights = (model / "model.safetensors").stat().st_size >> 10
    assert one > weights, "the measure sees the model"
    assert four < 0.45 * one, (one, four, weights)
