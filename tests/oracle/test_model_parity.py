"""Logits, loss, every gradient and greedy tokens against transformers (eager attention, fp32 and fp64), over the architecture's variants."""
import struct
import subprocess

import numpy
import pytest
import torch
import transformers
from safetensors.torch import load_file

from conftest import BIN

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 10000.0}
VARIANTS = {
    "qwen3": ("qwen3", {}),
    "qwen3 tied": ("qwen3", dict(tie_word_embeddings=True)),
    "qwen3 odd sizes": ("qwen3", dict(vocab_size=8191, hidden_size=72, intermediate_size=100, num_attention_heads=6, num_key_value_heads=3, head_dim=20,
                                      eos_token_id=None, pad_token_id=None)),
    "qwen3 one group": ("qwen3", dict(num_key_value_heads=1)),
    "qwen3 linear": ("qwen3", dict(rope_parameters={"rope_type": "linear", "factor": 3.0, "rope_theta": 10000.0})),
    "qwen3 dynamic": ("qwen3", dict(max_position_embeddings=40, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0})),
    "qwen3 yarn": ("qwen3", dict(rope_parameters=YARN)),
    "qwen3 yarn factor": ("qwen3", dict(rope_parameters={**YARN, "attention_factor": 0.9, "beta_fast": 20.0, "beta_slow": 2.0})),
    "qwen3 llama3": ("qwen3", dict(rope_parameters={"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                                    "original_max_position_embeddings": 32, "rope_theta": 10000.0})),
    "qwen2": ("qwen2", {}),
    "qwen2 tied": ("qwen2", dict(tie_word_embeddings=True, num_hidden_layers=2)),
    "qwen2 sliding window": ("qwen2", dict(use_sliding_window=True, sliding_window=11, max_window_layers=1)),
}


def write_input(path, tokens, labels, mask):
    path.write_bytes(struct.pack("<qq", *tokens.shape) + tokens.numpy().tobytes() + labels.numpy().tobytes() + mask.numpy().astype("<f4").tobytes())


def probe(folder, source, out, *keys, code=0):
    process = subprocess.run([str(BIN / "model_probe"), str(folder), str(source), str(out), *keys], capture_output=True, text=True, timeout=300)
    assert process.returncode == code, process.stderr
    return process


def batch(vocabulary, rows=2, length=70, seed=5):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, vocabulary, (rows, length), generator=generator)
    labels = torch.cat([tokens[:, 1:], torch.randint(0, vocabulary, (rows, 1), generator=generator)], 1)
    mask = (torch.rand(rows, length, generator=generator) > 0.25).float()
    return tokens, labels, mask


def reference(folder, tokens, labels, mask, dtype):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").train()
    logits = model(input_ids=tokens, use_cache=False).logits
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    total = (losses * mask.flatten().to(losses.dtype)).sum()
    (total / mask.sum()).backward()
    return logits.detach(), total.item(), {name: p.grad for name, p in model.named_parameters()}


def relative(a, b):
    return ((a.double() - b.double()).norm() / (b.double().norm() + 1e-300)).item()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.fast
def test_logits_loss_and_gradients(variant, tiny, tmp_path):
    kind, changes = VARIANTS[variant]
    folder, _ = tiny(kind, **changes)
    tokens, labels, mask = batch(transformers.AutoConfig.from_pretrained(folder).vocab_size)
    write_input(tmp_path / "input", tokens, labels, mask)
    logits, total, gradients = reference(folder, tokens, labels, mask, torch.float32)
    probe(folder, tmp_path / "input", tmp_path / "out")
    ours = torch.from_numpy(numpy.fromfile(tmp_path / "out/logits.f32", "<f4")).view(logits.shape)
    assert (ours - logits).abs().max() <= 1e-5 * logits.abs().max()
    loss, valid = numpy.fromfile(tmp_path / "out/loss.f64", "<f8")
    assert valid == mask.sum().item()
    assert abs(loss - total) <= 1e-5 * abs(total)
    found = {}
    for file in (tmp_path / "out/gradients").glob("*.safetensors"):
        found.update(load_file(file))
    assert found.keys() == gradients.keys()
    worst = {name: relative(found[name], wanted) for name, wanted in gradients.items()}
    assert max(worst.values()) <= 1e-5, {name: value for name, value in worst.items() if value > 1e-5}


def expect_same_bits_recomputed(folder, how, tmp_path):
    write_input(tmp_path / "input", *batch(8192))
    probe(folder, tmp_path / "input", tmp_path / "plain")
    probe(folder, tmp_path / "input", tmp_path / "again", f"recompute={how}")
    assert (tmp_path / "plain/loss.f64").read_bytes() == (tmp_path / "again/loss.f64").read_bytes()
    for file in (tmp_path / "plain/gradients").glob("*.safetensors"):
        assert file.read_bytes() == (tmp_path / "again/gradients" / file.name).read_bytes()


@pytest.mark.parametrize("how", ["uniform:2", "block:1", "core_attn", "mlp", "layernorm"])
def test_recompute_changes_no_bit(how, tiny, tmp_path):
    folder, _ = tiny("qwen3")
    expect_same_bits_recomputed(folder, how, tmp_path)


def test_double_precision(tiny, tmp_path):
    """The fp64 model is the definition in ATen: transformers' angles are fp32 in both, so everything else agrees to rounding."""
    folder, _ = tiny("qwen3", num_hidden_layers=2)
    tokens, labels, mask = batch(8192)
    write_input(tmp_path / "input", tokens, labels, mask)
    logits, total, gradients = reference(folder, tokens, labels, mask, torch.float64)
    probe(folder, tmp_path / "input", tmp_path / "out", "dtype=fp64")
    loss, _ = numpy.fromfile(tmp_path / "out/loss.f64", "<f8")
    assert abs(loss - total) <= 1e-7 * abs(total)  # transformers' RMSNorm computes in fp32 whatever the type
    found = load_file(next((tmp_path / "out/gradients").glob("*.safetensors")))
    for name, wanted in gradients.items():
        assert relative(found[name], wanted) <= 2e-6, name


@pytest.mark.parametrize("ours_type, dtype", [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_half_types_are_as_near_to_fp32_as_transformers_is(ours_type, dtype, tiny, tmp_path):
    folder, _ = tiny("qwen3", dtype="bfloat16")
    tokens, labels, mask = batch(8192)
    write_input(tmp_path / "input", tokens, labels, mask)
    exact, _, exact_gradients = reference(folder, tokens, labels, mask, torch.float32)
    theirs, _, their_gradients = reference(folder, tokens, labels, mask, dtype)
    probe(folder, tmp_path / "input", tmp_path / "out", f"dtype={ours_type}")
    ours = torch.from_numpy(numpy.fromfile(tmp_path / "out/logits.f32", "<f4")).view(exact.shape)
    assert relative(ours, exact) <= 1.05 * relative(theirs.float(), exact)
    found = load_file(next((tmp_path / "out/gradients").glob("*.safetensors")))
    for name, wanted in exact_gradients.items():
        assert relative(found[name], wanted) <= 1.3 * relative(their_gradients[name].float(), wanted) + 1e-3, name


@pytest.mark.parametrize("variant", ["qwen3", "qwen3 tied", "qwen3 dynamic", "qwen2 sliding window"])
def test_cached_greedy_tokens(variant, tiny, tmp_path):
    kind, changes = VARIANTS[variant]
    folder, _ = tiny(kind, **changes)
    tokens, labels, mask = batch(8192, rows=3, length=23)
    write_input(tmp_path / "input", tokens, labels, mask)
    probe(folder, tmp_path / "input", tmp_path / "out", "generate=40")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        wanted = model.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=40, min_new_tokens=40, do_sample=False, pad_token_id=0)[:, 23:]
    ours = torch.from_numpy(numpy.fromfile(tmp_path / "out/tokens.i64", "<i8")).view(3, 40)
    # min_new_tokens bans the end token there; a row may part ways only where ours chose it.
    for row, (a, b) in enumerate(zip(ours, wanted)):
        ended = (a == 8189).nonzero()
        n = ended[0].item() if len(ended) else 40
        assert torch.equal(a[:n], b[:n]), row


@pytest.mark.parametrize("name", ["qwen2", "qwen3", "qwen3_untied", "qwen3_v515", "qwen3_moe"])
@pytest.mark.fast
def test_goldens(name, golden, tmp_path):
    """The golden checkpoints' own tokens. Their stored logits came from a model whose rotary frequencies had been rounded to bf16; ours are not."""
    tokens = torch.load(golden / name / "ref_logits.pt")["input_ids"]
    write_input(tmp_path / "input", tokens, tokens, torch.ones(tokens.shape))
    logits, total, _ = reference(golden / name / "hf", tokens, tokens, torch.ones(tokens.shape), torch.float32)
    probe(golden / name / "hf", tmp_path / "input", tmp_path / name, "dtype=fp32")
    ours = torch.from_numpy(numpy.fromfile(tmp_path / name / "logits.f32", "<f4")).view(logits.shape)
    assert (ours - logits).abs().max() <= 1e-5 * logits.abs().max()
    assert abs(numpy.fromfile(tmp_path / name / "loss.f64", "<f8")[0] - total) <= 1e-5 * abs(total)
