"""Fixtures of the oracle tests: the binaries under test, the goldens, small models made on the spot, and a way to run `ponte`."""
import json
import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
DEMO = ROOT / "demo"
BIN = pathlib.Path(os.environ.get("PONTE_BIN", ROOT / "build" / "release" / "bin"))
CHECKPOINTS = BIN.parent / "golden"  # the archives of GOLDEN, unpacked when the build is configured


def pytest_configure(config):
    config.addinivalue_line("markers", "fast: part of ./test.sh fast")


class Result:
    def __init__(self, process: subprocess.CompletedProcess):
        self.code, self.out, self.err = process.returncode, process.stdout, process.stderr

    def __repr__(self):
        return f"exit {self.code}\n--- stdout\n{self.out[-4000:]}\n--- stderr\n{self.err[-4000:]}"


def run_ponte(*arguments, code=0, timeout=300, env=None, cwd=None, text=True):
    """Runs `ponte ARGUMENTS`, checks its exit code and returns out and err."""
    process = subprocess.run([str(BIN / "ponte"), *map(str, arguments)], capture_output=True, text=text, timeout=timeout, cwd=cwd,
                             stdin=subprocess.DEVNULL, env={**os.environ, **(env or {})})
    result = Result(process)
    if code is not None:
        assert result.code == code, f"ponte {' '.join(map(str, arguments))}: wanted exit {code}, got {result!r}"
    return result


def interrupted(**where):
    """Environment that interrupts a program at a stated point (tests/tools/interrupt.cpp): change=n kills it, record=n with signal=s signals it."""
    assert (BIN / "interrupt.so").exists()
    return {"LD_PRELOAD": str(BIN / "interrupt.so"), **{f"INTERRUPT_{name.upper()}": str(int(value)) for name, value in where.items()}}


@pytest.fixture(scope="session")
def ponte():
    assert (BIN / "ponte").exists(), f"no binary at {BIN}: build first, or set PONTE_BIN"
    return run_ponte


@pytest.fixture(scope="session")
def golden():
    assert (CHECKPOINTS / ".hashes").exists(), f"no checkpoints at {CHECKPOINTS}: configure the build with PONTE_TESTS"
    return CHECKPOINTS


@pytest.fixture(scope="session")
def demo():
    return DEMO


def make_model(folder, kind="qwen3", seed=1234, dtype="float32", std=0.05, **changes):
    """A small random Qwen model in HF format with the demo's tokenizer; biases and norms are random too, so that mapping errors show."""
    import torch
    import transformers
    shape = dict(vocab_size=8192, hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
                 max_position_embeddings=1024, tie_word_embeddings=False, bos_token_id=None, eos_token_id=8189, pad_token_id=8189)
    if kind.startswith("qwen3"):
        shape["head_dim"] = 32
    if kind.endswith("_moe"):
        shape.update(num_experts=8, num_experts_per_tok=2, moe_intermediate_size=48, norm_topk_prob=True)
    if kind == "olmoe":  # an expert's width under the dense name
        shape.update(num_experts=8, num_experts_per_tok=2, intermediate_size=48)
    if kind == "qwen2_moe":
        shape.update(shared_expert_intermediate_size=80, norm_topk_prob=False)
    if kind == "qwen3_next":
        shape.update(num_hidden_layers=4, num_experts=8, num_experts_per_tok=2, moe_intermediate_size=48, shared_expert_intermediate_size=40, norm_topk_prob=True,
                     linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=16, linear_value_head_dim=24, partial_rotary_factor=0.25)
    shape.update(changes)
    name = {"qwen2": "Qwen2", "qwen3": "Qwen3", "qwen2_moe": "Qwen2Moe", "qwen3_moe": "Qwen3Moe", "qwen3_next": "Qwen3Next",
            "olmoe": "Olmoe"}[kind]
    config_class, model_class = getattr(transformers, name + "Config"), getattr(transformers, name + "ForCausalLM")
    torch.manual_seed(seed)
    model = model_class(config_class(**shape))
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
            else:
                parameter.normal_(0, std, generator=generator)
    model = model.to(getattr(torch, dtype)).eval()
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        (pathlib.Path(folder) / name).write_bytes((DEMO / "base" / name).read_bytes())
    return model


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """tiny(kind, **changes) -> (folder, transformers model); made once per session and set of changes."""
    made = {}

    def get(kind="qwen3", **changes):
        key = json.dumps([kind, changes], sort_keys=True)
        if key not in made:
            folder = tmp_path_factory.mktemp(kind)
            made[key] = (folder, make_model(folder, kind, **changes))
        return made[key]

    return get


@pytest.fixture(autouse=True)
def few_threads(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
