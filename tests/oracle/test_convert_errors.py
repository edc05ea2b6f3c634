"""What goes wrong in conversions: bad models, damaged checkpoints, full disks, killed processes. Always a clear error, exit 1, and nothing lost. More
than 400 lines: one small model and its ways to be edited serve every case, and the cases of one kind stand in one table."""
import fcntl
import itertools
import json
import os
import pickle
import resource
import shutil
import signal
import subprocess

import pytest
import torch
from conftest import BIN, interrupted
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
    ponte("import", "--hf-model", other, "--megatron-path", tmp_path / "m", "--overwrite")
    ponte("verify", "--hf-model", other, "--megatron-path", tmp_path / "m")

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


def test_a_training_run_is_not_set_back(ponte, golden, tmp_path):
    ponte("import", "--hf-model", golden / "qwen3/hf", "--megatron-path", tmp_path / "m")
    (tmp_path / "m/iter_0000500").mkdir()
    (tmp_path / "m/latest_checkpointed_iteration.txt").write_text("500")
    before = digest(tmp_path / "m")
    fails(ponte, "import", "--hf-model", golden / "qwen3_untied/hf", "--megatron-path", tmp_path / "m", "--overwrite",
          with_text=["iter_0000500", "training run"])
    assert digest(tmp_path / "m") == before


def test_one_writer_to_a_checkpoint(ponte, golden, tmp_path):
    command = ("import", "--hf-model", golden / "qwen3/hf", "--megatron-path", tmp_path / "m", "--overwrite")
    ponte(*command)
    with open(tmp_path / "m/.ponte.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("a training run, process 42 on somewhere")
        lock.flush()
        fails(ponte, *command, with_text=f"{tmp_path / 'm'} is being written to by a training run, process 42 on somewhere")
    ponte(*command)
    assert not (tmp_path / "m/.ponte.lock").exists()


def test_a_link_to_the_target_stays_a_link(ponte, golden, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "hf").symlink_to("disk/model")
    for name in ("qwen3", "qwen3_untied"):
        ponte("export", "--megatron-path", golden / name / "mcore", "--hf-path", tmp_path / "hf", "--overwrite")
        assert (tmp_path / "hf").is_symlink()
        assert_same(hf_tensors(tmp_path / "disk/model"), hf_tensors(golden / name / "hf"))


def test_export_says_that_it_has_no_tokenizer(ponte, golden, tmp_path):
    source = tmp_path / "model"
    shutil.copytree(golden / "qwen3/hf", source)
    ponte("import", "--hf-model", source, "--megatron-path", tmp_path / "with")
    assert "tokenizer" not in ponte("export", "--megatron-path", tmp_path / "with", "--hf-path", tmp_path / "hf_with").err
    for file in source.iterdir():
        if "token" in file.name or file.name in ("merges.txt", "vocab.json", "chat_template.jinja"):
            file.unlink()
    ponte("import", "--hf-model", source, "--megatron-path", tmp_path / "without")
    said = ponte("export", "--megatron-path", tmp_path / "without", "--hf-path", tmp_path / "hf_without").err
    assert "without a tokenizer" in said and "--hf-model" in said


def test_an_exported_model_is_checked_when_it_comes_back(ponte, golden, tmp_path):
    ponte("export", "--megatron-path", golden / "qwen3/mcore", "--hf-path", tmp_path / "hf")
    file = tmp_path / "hf/model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    command = ("import", "--hf-model", tmp_path / "hf", "--megatron-path", tmp_path / "m")
    fails(ponte, *command, with_text=["ponte_manifest.json", "1 tensors differ", "its content is not what was written"])
    assert not (tmp_path / "m").exists()
    (tmp_path / "hf/ponte_manifest.json").unlink()
    ponte(*command)


def test_verify_alone_counts(ponte, golden, tmp_path):
    ponte("import", "--hf-model", golden / "qwen3/hf", "--megatron-path", tmp_path / "m")
    tensors = json.loads(ponte("inspect", tmp_path / "m", "--json").out)["tensors"]
    out = ponte("verify", "--megatron-path", tmp_path / "m").out
    assert f"Qwen3ForCausalLM: {len(tensors)} tensors, " in out and "content hashes: as written" in out


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
    del manifest["tensors"]["decoder.layers.mlp.linear_fc2.weight"], manifest["xxh3_128"]
    file.write_text(json.dumps(manifest))
    result = ponte("verify", "--megatron-path", tmp_path / "m", code=1)
    assert "decoder.layers.mlp.linear_fc2.weight: stored, but not in the manifest" in result.err, result.err


def test_output_that_cannot_be_written(golden):
    with open("/dev/full", "w") as full:
        result = subprocess.run([BIN / "ponte", "inspect", golden / "qwen2/hf"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert result.returncode == 1 and "standard output" in result.stderr


def test_names_out_of_files_do_not_steer_the_terminal(ponte, model, tmp_path):
    folder, edit = model
    edit(**{"\033[31mre\td\x9b\x7fé": torch.zeros(2)})
    importing(ponte, folder, tmp_path, "\\x1b[31mre\td\\xc2\\x9b\\x7fé")
    process = subprocess.run([BIN / "ponte", "inspect", b"no\xff\xe2\x82way"], capture_output=True)
    assert process.returncode == 1 and b"no\\xff\\xe2\\x82way" in process.stderr, process.stderr


def test_verify_names_what_differs(ponte, model, golden, tmp_path):
    folder, edit = model
    ponte("import", "--hf-model", folder, "--megatron-path", tmp_path / "m")
    changed = load_file(folder / "model.safetensors")["model.layers.1.self_attn.v_proj.weight"].clone()
    changed[-1, -1] += 1
    edit(model__layers__1__self_attn__v_proj__weight=changed)
    fails(ponte, "verify", "--hf-model", folder, "--megatron-path", tmp_path / "m",
          with_text=["1 tensors differ", "decoder.layers.1.self_attention.linear_qkv.weight"])
    fails(ponte, "verify", "--hf-model", golden / "qwen3/hf", "--megatron-path", tmp_path / "m", with_text="")


def test_lone_files(ponte, golden, tmp_path):
    """torch.save archives are listed as data; the files of a checkpoint folder lead to it."""
    folder = golden / "mcore016/qwen3/mcore/iter_0000000"
    for name in (".metadata", "__0_0.distcp"):
        said = fails(ponte, "inspect", folder / name, with_text=f"`ponte inspect {folder}`").err
        assert "safetensors" not in said, said
    ponte("import", "--hf-model", golden / "qwen3/hf", "--megatron-path", tmp_path / "m")
    common = ponte("inspect", tmp_path / "m/iter_0000000/common.pt").out
    assert "args.num_layers = 2" in common.splitlines() and common.endswith("torch.save\n"), common
    tensors = {"model": {"a.weight": torch.ones(2, 3), "b": [torch.zeros(4, dtype=torch.int64), {"c": torch.tensor(1.5)}]}, 7: torch.ones(1, dtype=torch.bfloat16), "betas": (0.9, 0.95)}
    torch.save(tensors, tmp_path / "some.pt")
    report = json.loads(ponte("inspect", tmp_path / "some.pt", "--json").out)
    found = {t["name"]: (t["dtype"], t["shape"]) for t in report["tensors"]}
    assert found == {"model.a.weight": ("F32", [2, 3]), "model.b.0": ("I64", [4]), "model.b.1.c": ("F32", []), "7": ("BF16", [1])}, found
    assert report["format"] == "torch.save" and report["objects"] == ["betas = (0.9, 0.95)"] and report["bytes"] == 24 + 32 + 4 + 2
    torch.save(torch.ones(3), tmp_path / "one.pt")
    assert "(the value)" in ponte("inspect", tmp_path / "one.pt").out

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'executed'}",)

    torch.save({"x": Evil()}, tmp_path / "evil.pt")
    fails(ponte, "inspect", tmp_path / "evil.pt", with_text=".system")
    torch.save({"x": torch.ones(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps({"x": [1, 2, 3]}))
    for name in ("old.pt", "plain.pkl"):
        fails(ponte, "inspect", tmp_path / name, with_text="a pickle outside an archive of torch.save")
    assert not (tmp_path / "executed").exists()


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
    said = ponte(*export, code=1).err
    assert "8 wrong" in said and said.count("self_attention.linear_qkv.weight: shape") == 1, said  # a stacked tensor is wrong once, not in each layer
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


def killed_lives(*command):
    """Runs the command again and again, killed before its first change of a file, its second, ... until it ends by itself."""
    for change in itertools.count(1):
        process = subprocess.run([str(BIN / "ponte"), *map(str, command)], capture_output=True, text=True, env={**os.environ, **interrupted(change=change)})
        if process.returncode == 0:
            assert change > 20
            return
        assert process.returncode == -signal.SIGKILL, process.stderr
        yield


def test_killed_at_any_moment(ponte, golden, tmp_path):
    importing = ("import", "--hf-model", golden / "qwen3/hf", "--megatron-path", tmp_path / "m")
    appeared = False
    for _ in killed_lives(*importing, "--overwrite"):
        assert not appeared or (tmp_path / "m").exists()
        appeared = (tmp_path / "m").exists()
        if appeared:
            ponte("verify", "--hf-model", golden / "qwen3/hf", "--megatron-path", tmp_path / "m")
    ponte("verify", "--hf-model", golden / "qwen3/hf", "--megatron-path", tmp_path / "m")
    assert [p.name for p in tmp_path.iterdir()] == ["m"], "the next run clears what a killed one left"
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == ["iter_0000000", "latest_checkpointed_iteration.txt", "latest_train_state.pt"]


def test_killed_while_replacing(ponte, golden, tmp_path):
    old, new = golden / "qwen3/hf", golden / "qwen3_untied/hf"
    ponte("import", "--hf-model", old, "--megatron-path", tmp_path / "m")
    replaced = False
    for _ in killed_lives("import", "--hf-model", new, "--megatron-path", tmp_path / "m", "--overwrite"):
        codes = [ponte("verify", "--hf-model", hf, "--megatron-path", tmp_path / "m", code=None).code for hf in (old, new)]
        assert codes in ([0, 1], [1, 0]), "neither the old checkpoint nor the new one"
        assert codes == [1, 0] or not replaced
        replaced = codes == [1, 0]
    ponte("verify", "--hf-model", new, "--megatron-path", tmp_path / "m")
    exporting = ("export", "--megatron-path", tmp_path / "m", "--hf-path", tmp_path / "hf")
    shutil.copytree(old, tmp_path / "hf")
    for _ in killed_lives(*exporting, "--overwrite"):
        codes = [ponte("verify", "--hf-model", tmp_path / "hf", "--megatron-path", side, code=None).code for side in (golden / "qwen3/mcore", tmp_path / "m")]
        assert codes in ([0, 1], [1, 0]), "neither the old model nor the new one"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hf", "m"]


def test_flags(ponte, golden, tmp_path):
    fails(ponte, "import", "--hf-modle", "x", "--megatron-path", "y", with_text=["no such flag", "--hf-model"])
    fails(ponte, "improt", with_text=["not a command", "'import'"])
    fails(ponte, "import", "--megatron-path", "y", with_text="--hf-model")
    fails(ponte, "import", "--hf-model", golden / "qwen3/hf", "--megatron-path", tmp_path / "m", "--torch-dtype", "int3", with_text="int3")
    fails(ponte, "import", "--hf-model", golden / "qwen3/hf", "--megatron-path", tmp_path / "m", "--torch-dtype", "float8",
          with_text=["float8", "bf16", "fp16", "fp32"])
    fails(ponte, "import", "--hf-model", golden / "qwen3/hf", "--megatron-path", tmp_path / "m", "--torch-dtype", "int8", with_text=["int8", "bf16"])
    fails(ponte, "import", "--hf-model", golden / "qwen3/hf", "--megatron-path", "", with_text="--megatron-path is given, but empty")
    fails(ponte, "export", "--megatron-path", golden / "qwen3/mcore", "--hf-path", "", with_text="--hf-path is given, but empty")
    fails(ponte, "inspect", "", with_text="PATH is given, but empty")
    fails(ponte, "inspect", golden / "qwen3/hf/model.safetensors", "--map", with_text="--map wants a whole model")
    fails(ponte, "inspect", golden / "qwen3/hf/model.safetensors", "--map", "--json", with_text="--map wants a whole model")
    fails(ponte, "export", "--megatron-path", golden / "qwen3/mcore", "--hf-path", tmp_path / "h", "--max-shard-size", "5 parsecs", with_text="5 parsecs")
    for flag, value in (("--threads", "-3"), ("--threads", "100000"), ("--threads", "1.5"), ("--threads", "99999999999999999999")):
        fails(ponte, "verify", "--megatron-path", golden / "qwen3/mcore", flag, value, with_text=[flag, value])
    for flag, value in (("--workers", "-1"), ("--max-docs", "-2"), ("--partitions", "0"), ("--shard-bytes", "-5"), ("--log-interval", "-1")):
        fails(ponte, "preprocess", "--input", "x", "--output-prefix", "y", "--tokenizer-model", "z", flag, value, with_text=[flag, value])
    for flag, value in (("--seq-length", "0"), ("--seed", "-1"), ("--first", "-1"), ("--count", "-2"), ("--vocab-size", "-1"), ("--eod-id", "4294967296")):
        fails(ponte, "data", "samples", "--seq-length", "8", flag, value, with_text=[flag, value])
    ponte("import", f"--hf_model={golden / 'qwen3/hf'}", "--megatron_path", tmp_path / "m", "--torch_dtype=bfloat16")
    for command in ("import", "export", "verify", "inspect"):
        assert "--help" in ponte(command, "--help").out
        assert command in ponte("--help").out
