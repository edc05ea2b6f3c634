"""What the tests against transformers share: one batch, a model's probe on it, and how near the two have to be."""
import struct
import subprocess

import numpy
import torch
import transformers
from conftest import BIN
from safetensors.torch import load_file


def batch(vocabulary, rows=2, length=70, seed=5):
    """Tokens, labels, loss mask."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, vocabulary, (rows, length), generator=generator)
    labels = torch.cat([tokens[:, 1:], torch.randint(0, vocabulary, (rows, 1), generator=generator)], 1)
    mask = (torch.rand(rows, length, generator=generator) > 0.25).float()
    return tokens, labels, mask


class Probe:
    """Runs a model's folder on a batch. logits, loss (summed over `valid` tokens), gradients under Hugging Face's names; with generate=N, tokens."""

    def __init__(self, folder, data, out, *keys):
        source = out.with_suffix(".input")
        (tokens, labels, mask), self.out = data, out
        self.mask, self.shape = mask, tokens.shape
        source.write_bytes(struct.pack("<qq", *self.shape) + tokens.numpy().tobytes() + labels.numpy().tobytes() + mask.numpy().astype("<f4").tobytes())
        process = subprocess.run([str(BIN / "model_probe"), str(folder), str(source), str(out), *keys], capture_output=True, text=True, timeout=300)
        assert process.returncode == 0, process.stderr

    @property
    def loss(self):
        return numpy.fromfile(self.out / "loss.f64", "<f8")[0]

    @property
    def valid(self):
        return numpy.fromfile(self.out / "loss.f64", "<f8")[1]

    @property
    def logits(self):
        return torch.from_numpy(numpy.fromfile(self.out / "logits.f32", "<f4")).view(*self.shape, -1)

    @property
    def gradients(self):
        return {name: g for file in (self.out / "gradients").glob("*.safetensors") for name, g in load_file(file).items()}

    @property
    def tokens(self):
        return torch.from_numpy(numpy.fromfile(self.out / "tokens.i64", "<i8")).view(self.shape[0], -1)


def load_transformers(folder, dtype=torch.float32, attention="eager"):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=attention, experts_implementation="eager").train()


def summed_loss(logits, labels, mask):
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    return (losses * mask.flatten().to(losses.dtype)).sum()


def greedy_tokens(folder, tokens, count, **options):
    with torch.no_grad():
        return load_transformers(folder).eval().generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=count, do_sample=False,
                                                         pad_token_id=0, **options)[:, tokens.shape[1]:]


def relative(a, b):
    return ((a.double() - b.double()).norm() / (b.double().norm() + 1e-300)).item()


def assert_near(found, wanted, bound):
    assert found.keys() == wanted.keys()
    wrong = {name: relative(found[name], g) for name, g in wanted.items()}
    assert max(wrong.values()) <= bound, {name: value for name, value in wrong.items() if value > bound}


def assert_outputs_near(ours, logits, total):
    assert (ours.logits - logits).abs().max() <= 1e-5 * logits.abs().max()
    assert abs(ours.loss - total) <= 1e-5 * abs(total)
    assert ours.valid == ours.mask.sum().item()


def assert_parity(ours, logits, total, gradients):
    assert_outputs_near(ours, logits, total)
    assert_near(ours.gradients, gradients, 1e-5)


def assert_as_exact(ours, exact, theirs, factor=lambda name: 1.3):
    """Of two computed in a half type (logits, loss, gradients each), ours is as near to the exact one as theirs."""
    assert relative(ours.logits, exact[0]) <= 1.05 * relative(theirs[0].float(), exact[0])
    found = ours.gradients
    for name, wanted in exact[2].items():
        assert relative(found[name], wanted) <= factor(name) * relative(theirs[2][name].float(), wanted) + 1e-3, name


def expect_same_bits_recomputed(folder, how, tmp_path):
    plain = Probe(folder, batch(8192), tmp_path / "plain")
    again = Probe(folder, batch(8192), tmp_path / "again", f"recompute={how}")
    for file in ["loss.f64", *(f"gradients/{path.name}" for path in (plain.out / "gradients").iterdir())]:
        assert (plain.out / file).read_bytes() == (again.out / file).read_bytes(), file
