"""What goes wrong in conversions: bad models, damaged checkpoints, full disks, killed processes. Always a clear error, exit 1, and nothing lost."""
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import time

import pytest
import torch
from conftest import BIN
from safetensors.torch import load_file, save_file
from test_convert_golden import assert_same, digest, hf_tensors

pytestmark = pytest.mark.fast


@pytest.fixture
def model(golden, tmp_path):
    """A writable copy of a small model; edit(**tensors) replaces, adds or (None) removes tensors, and writes the file again."""
    folder = tmp_path / "model"
    shutil.copytree(golden / "qwen3_untied/hf", folder)
    for file in folder.iterdir():
        file.chmod(0o644)

    def edit(config=None, **tensors):
        content = load_file(folder / "model.safetensors")
        for name, tensor in tensors.items():
            name = name.replace("__", ".")
            if tensor is None:
                del content[name]
            else:
                content[name] = tensor
        save_file({k: v.clone() for k, v in content.items()}, folder / "model.safetensors", metadata={"format": "pt"})
        if config:
            path = folder / "config.json"
            path.write_text(json.dumps({**json.loads(path.read_text()), **config}))

    return folder, edit


def fails(ponte, *arguments, with_text):
    result = ponte(*arguments, code=1)
    for text in [with_text] if isinstance(with_text, str) else with_text:
        assert text in result.err, result
    return result


def importing(ponte, folder, tmp_path, with_text):
    target = tmp_path / "mcore"
    fails(ponte, "import", "--hf-model", folder, "--megatron-path", target, with_text=with_text)
    assert not target.exists() and not list(tmp_path.glob(".mcore*")), "something was left behind"


@pytest.mark.parametrize("change, text", [
    (dict(model__norm__weight=None), ["1 missing", "model.norm.weight"]),
    (dict(model__layers__7__mlp__up_proj__weight=torch.zeros(2)), ["1 unexpected", "model.layers.7.mlp.up_proj.weight"]),
    (dict(model__norm__weight=torch.zeros(63, dtype=torch.bfloat16)), ["model.norm.weight: shape [63], wanted [64]"]),
    (dict(lm_head__weight=None), ["1 missing", "lm_head.weight"]),
    (dict(model__layers__0__self_attn__k_proj__weight=torch.zeros(32, 64)), ["share one Megatron parameter", "torch.float32"]),
    (dict(model__layers__1__mlp__down_proj__weight=torch.zeros(64, 128)), ["Megatron stacks them in one tensor", "--torch-dtype"]),
    (dict(config={"architectures": ["MambaForCausalLM"]}), ["'MambaForCausalLM' is not supported", "Qwen3ForCausalLM"]),
    (dict(config={"num_hidden_layers": 3}), ["11 missing", "model.layers.2."]),
    (dict(config={"num_hidden_layers": 1}), ["11 unexpected", "model.layers.1."]),
    (dict(config={"vocab_size": 513}), ["shape [512, 64], wanted [513, 64]"]),
    (dict(config={"tie_word_embeddings": True}), ["lm_head.weight differs from model.embed_tokens.weight"]),
    (dict(config={"quantization_config": {"quant_method": "fp8"}}), ["quantised"]),
])
def test_bad_models(ponte, model, tmp_path, change, text):
    folder, edit = model
    edit(**change)
    importing(ponte, folder, tmp_path, text)


def test_damaged_files(ponte, model, tmp_path):
    folder, _ = model
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    for damaged in (whole[:-10], whole + b"x", whole[:100], b"", (1 << 40).to_bytes(8, "little") + whole[8:]):
        file.write_bytes(damaged)
        importing(ponte, folder, tmp_path, "model.safetensors")
    file.unlink()
    importing(ponte, folder, tmp_path, str(folder))
    shutil.rmtree(folder)
    importing(ponte, folder, tmp_path, str(folder))


def test_sharded_models(ponte, model, tmp_path):
    folder, _ = model
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[:9], "model-00002-of-00002.safetensors": names[9:]}
    for file, part in parts.items():
        save_file({n: tensors[n] for n in part}, folder / file)
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {n: f for f, part in parts.items() for n in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    ponte("import", "--hf-model", folder, "--megatron-path", tmp_path / "whole")
    ponte("export", "--megatron-path", tmp_path / "whole", "--hf-path", tmp_path / "back", "--max-shard-size", "100KB")
    assert_same(hf_tensors(tmp_path / "back"), tensors)
    written = json.loads((tmp_path / "back/model.safetensors.index.json").read_text())
    assert written["weight_map"].keys() == tensors.keys()
    assert len(set(written["weight_map"].values())) > 2
    for name, file in written["weight_map"].items():
        assert name in load_file(tmp_path / "back" / file)
    (folder / "model-00002-of-00002.safetensors").unlink()
    importing(ponte, folder, tmp_path, "model-00002-of-00002.safetensors")


def test_redundant_tied_head_is_dropped_aloud(ponte, model, tmp_path):
    folder, edit = model
    edit(config={"tie_word_embeddings": True}, lm_head__weight=load_file(folder / "model.safetensors")["model.embed_tokens.weight"])
    result = ponte("import", "--hf-model", folder, "--megatron-path", tmp_path / "m")
    assert "lm_head.weight: equal to model.embed_tokens.weight" in result.err
    assert "lm_head.weight" in json.loads((tmp_path / "m/iter_0000000/ponte/manifest.json").read_text())["dropped"][0]
    ponte("verify", "--hf-model", folder, "--megatron-path", tmp_path / "m")


@pytest.mark.parametrize("source", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name, target", [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_casts_equal_torch(ponte, model, tmp_path, source, name, target):
    folder, edit = model
    generator = torch.Generator().manual_seed(5)
    special = torch.tensor([0.0, -0.0, float("inf"), -float("inf"), float("nan"), 65519.0, 65520.0, 1e-8, 6e-8, 3.4e38, 1e-45, 1.00390625, 1.01171875])
    tensors = {}
    for key, tensor in load_file(folder / "model.safetensors").items():
        value = torch.randn(tensor.shape, generator=generator) * 10 ** torch.randint(-6, 6, tensor.shape, generator=generator).float()
        value.view(-1)[:len(special)] = special[:value.numel()]
        tensors[key] = value.to(source)
    save_file(tensors, folder / "model.safetensors")
    result = ponte("import", "--hf-model", folder, "--megatron-path", tmp_path / "m", "--torch-dtype", name)
    assert ("parameters cast" in result.err) == (source != target)
    ponte("verify", "--hf-model", folder, "--megatron-path", tmp_path / "m")
    ponte("export", "--megatron-path", tmp_path / "m", "--hf-path", tmp_path / "hf")
    got = hf_tensors(tmp_path / "hf")
    for key, tensor in tensors.items():
        want = tensor.to(target)
        nan = want.isnan()
        assert got[key].dtype == target and torch.equal(got[key].isnan(), nan), key
        assert torch.equal(got[key][~nan].view(torch.uint8), want[~nan].view(torch.uint8)), key


def test_existing_targets(ponte, golden, tmp_path):
    hf, other = golden / "qwen3/hf", golden / "qwen3_untied/hf"
    ponte("import", "--hf-model", hf, "--megatron-path", tmp_path / "m")
    before = digest(tmp_path / "m")
    fails(ponte, "import", "--hf-model", other, "--megatron-path", tmp_path / "m", with_text="--overwrite")
    assert digest(tmp_path / "m") == before
    (tmp_path / "m/iter_0000500").mkdir()  # a run's later checkpoint stays
    (tmp_path / "m/iter_0000500/keep").write_text("x")
    ponte("import", "--hf-model", other, "--megatron-path", tmp_path / "m", "--overwrite")
    ponte("verify", "--hf-model", other, "--megatron-path", tmp_path / "m")
    assert (tmp_path / "m/iter_0000500/keep").exists()

    ponte("export", "--megatron-path", tmp_path / "m", "--hf-path", tmp_path / "hf")
    fails(ponte, "export", "--megatron-path", tmp_path / "m", "--hf-path", tmp_path / "hf", with_text="--overwrite")
    ponte("export", "--megatron-path", tmp_path / "m", "--hf-path", tmp_path / "hf", "--overwrite")
    (tmp_path / "home").mkdir()
    (tmp_path / "home/letter.txt").write_text("dear")
    fails(ponte, "export", "--megatron-path", tmp_path / "m", "--hf-path", tmp_path / "home", "--overwrite", with_text="no Hugging Face model")
    fails(ponte, "import", "--hf-model", hf, "--megatron-path", tmp_path / "home", "--overwrite", with_text="no Megatron checkpoint")
    (tmp_path / "config.json").write_text("{}")
    fails(ponte, "export", "--megatron-path", tmp_path / "m", "--hf-path", tmp_path, "--overwrite", with_text="holds the checkpoint")
    assert (tmp_path / "home/letter.txt").read_text() == "dear"
    (tmp_path / "empty").mkdir()
    ponte("import", "--hf-model", hf, "--megatron-path", tmp_path / "empty")


def test_flipped_bits_are_found(ponte, golden, tmp_path):
    hf = golden / "qwen3/hf"
    ponte("import", "--hf-model", hf, "--megatron-path", tmp_path / "m")
    ponte("verify", "--megatron-path", tmp_path / "m")
    report = json.loads(ponte("inspect", tmp_path / "m", "--json").out)
    assert len(report["tensors"]) == 10
    found = 0
    for file in sorted((tmp_path / "m/iter_0000000").glob("*.distcp")):
        content = bytearray(file.read_bytes())
        for position in range(700, len(content), len(content) // 7):
            content[position] ^= 0x10
            file.write_bytes(content)
            for arguments in ([], ["--hf-model", hf]):
                result = ponte("verify", "--megatron-path", tmp_path / "m", *arguments, code=None)
                assert result.code in (0, 1)
                found += result.code
            content[position] ^= 0x10
            file.write_bytes(content)
    assert found >= 20, "weights fill most of the files, so most flips must show"


def test_a_manifest_covers_every_tensor(ponte, golden, tmp_path):
    ponte("import", "--hf-model", golden / "qwen2/hf", "--megatron-path", tmp_path / "m")
    file = tmp_path / "m/iter_0000000/ponte/manifest.json"
    manifest = json.loads(file.read_text())
    del manifest["tensors"]["decoder.layers.mlp.linear_fc2.weight"]
    file.write_text(json.dumps(manifest))
    result = ponte("verify", "--megatron-path", tmp_path / "m", code=1)
    assert "decoder.layers.mlp.linear_fc2.weight: stored, but not in the manifest" in result.err, result.err


def test_output_that_cannot_be_written(golden):
    with open("/dev/full", "w") as full:
        result = subprocess.run([BIN / "ponte", "inspect", golden / "qwen2/hf"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert result.returncode == 1 and "standard output" in result.stderr


def test_verify_names_what_differs(ponte, model, golden, tmp_path):
    folder, edit = model
    ponte("import", "--hf-model", folder, "--megatron-path", tmp_path / "m")
    changed = load_file(folder / "model.safetensors")["model.layers.1.self_attn.v_proj.weight"].clone()
    changed[-1, -1] += 1
    edit(model__layers__1__self_attn__v_proj__weight=changed)
    fails(ponte, "verify", "--hf-model", folder, "--megatron-path", tmp_path / "m",
          with_text=["1 tensors differ", "decoder.layers.1.self_attention.linear_qkv.weight"])
    fails(ponte, "verify", "--hf-model", golden / "qwen3/hf", "--megatron-path", tmp_path / "m", with_text="")


def test_damaged_native_checkpoints(ponte, golden, tmp_path):
    source = tmp_path / "m"
    shutil.copytree(golden / "qwen3_tp2pp2/mcore", source)
    for path in source.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    folder = source / "iter_0000000"
    export = ("export", "--megatron-path", source, "--hf-path", tmp_path / "hf")
    fails(ponte, "export", "--megatron-path", tmp_path / "none", "--hf-path", tmp_path / "hf", with_text="not a Megatron checkpoint")
    content = (folder / "__2_0.distcp").read_bytes()
    (folder / "__2_0.distcp").write_bytes(content[:len(content) // 2])
    fails(ponte, *export, with_text="__2_0.distcp")
    (folder / "__2_0.distcp").unlink()
    fails(ponte, *export, with_text="__2_0.distcp")
    (folder / "__2_0.distcp").write_bytes(content)
    tracker = source / "latest_checkpointed_iteration.txt"
    tracker.write_text("seven")
    fails(ponte, *export, with_text="'seven' is no iteration number")
    tracker.write_text("7")
    fails(ponte, *export, with_text="iter_0000007")
    tracker.write_text("0")
    config = (folder / "run_config.yaml").read_text()
    (folder / "run_config.yaml").write_text(config.replace("num_layers: 4", "num_layers: 5"))
    fails(ponte, *export, with_text=["shape [4, ", "wanted [5, "])
    (folder / "run_config.yaml").unlink()
    fails(ponte, *export, with_text="--hf-model")
    ponte(*export, "--hf-model", golden / "qwen3_tp2pp2/hf")
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_full_disk(ponte, golden, tmp_path):
    """A file may grow to 64 kB only, as a full disk would have it."""
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))

    native = golden / "qwen3/mcore"
    for command in (["import", "--hf-model", golden / "qwen3/hf", "--megatron-path", tmp_path / "out"],
                    ["export", "--megatron-path", native, "--hf-path", tmp_path / "out"]):
        process = subprocess.run([str(BIN / "ponte"), *map(str, command)], capture_output=True, text=True, preexec_fn=limit)
        assert process.returncode == 1 and "cannot reserve" in process.stderr, process.stderr
        assert not list(tmp_path.iterdir()), "something was left behind"


def test_killed_at_any_moment(ponte, tiny, tmp_path):
    folder, _ = tiny(num_hidden_layers=12, hidden_size=512, intermediate_size=1024)
    command = [str(BIN / "ponte"), "import", "--hf-model", str(folder), "--megatron-path", str(tmp_path / "m")]
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    whole = time.perf_counter() - start
    shutil.rmtree(tmp_path / "m")
    random.seed(3)
    killed = 0
    for _ in range(12):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(random.uniform(0, whole))
        process.kill()
        process.wait()
        killed += process.returncode != 0
        if (tmp_path / "m").exists():
            ponte("verify", "--hf-model", folder, "--megatron-path", tmp_path / "m")
            shutil.rmtree(tmp_path / "m")
    assert killed >= 3
    ponte(*command[1:])
    ponte("verify", "--hf-model", folder, "--megatron-path", tmp_path / "m")
    assert [p.name for p in tmp_path.iterdir()] == ["m"], "the next run clears what a killed one left"


def test_killed_while_replacing(ponte, tiny, golden, tmp_path):
    folder, _ = tiny(num_hidden_layers=12, hidden_size=512, intermediate_size=1024)
    old = golden / "qwen3/hf"
    ponte("import", "--hf-model", old, "--megatron-path", tmp_path / "m")
    command = [str(BIN / "ponte"), "import", "--hf-model", str(folder), "--megatron-path", str(tmp_path / "m"), "--overwrite"]
    for delay in (0.01, 0.03, 0.06, 0.1, 0.2):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(delay)
        process.kill()
        process.wait()
        codes = [ponte("verify", "--hf-model", hf, "--megatron-path", tmp_path / "m", code=None).code for hf in (old, folder)]
        assert sorted(codes) == [0, 1], "neither the old checkpoint nor the new one"


def test_flags(ponte, golden, tmp_path):
    fails(ponte, "import", "--hf-modle", "x", "--megatron-path", "y", with_text=["no such flag", "--hf-model"])
    fails(ponte, "improt", with_text=["not a command", "'import'"])
    fails(ponte, "import", "--megatron-path", "y", with_text="--hf-model")
    fails(ponte, "import", "--hf-model", golden / "qwen3/hf", "--megatron-path", tmp_path / "m", "--torch-dtype", "int3", with_text="int3")
    fails(ponte, "export", "--megatron-path", golden / "qwen3/mcore", "--hf-path", tmp_path / "h", "--max-shard-size", "5 parsecs", with_text="5 parsecs")
    ponte("import", f"--hf_model={golden / 'qwen3/hf'}", "--megatron_path", tmp_path / "m", "--torch_dtype=bfloat16")
    for command in ("import", "export", "verify", "inspect"):
        assert "--help" in ponte(command, "--help").out
        assert command in ponte("--help").out
