"""A checkpoint that is not as it was written: whatever uses it refuses, naming file and tensor, before anything is computed from it."""
import io
import shutil
import zipfile

import pytest

from test_convert_errors import fails
from training import Training, write_corpus

KINDS = {"weights": "decoder.", "embedding": "embedding.", "main parameters": "optimizer.state.param.", "first moments": "optimizer.state.exp_avg.",
         "second moments": "optimizer.state.exp_avg_sq."}
TP2 = ["--nproc-per-node", 2, "model.tensor_model_parallel_size=2"]


def places(iteration):
    """name -> (file, position and size of its bytes in it), by torch's own reader: a chunk of each tensor, and the objects."""
    from torch.distributed.checkpoint import FileSystemReader
    out = {}
    for index, info in FileSystemReader(str(iteration)).read_metadata().storage_data.items():
        item = (iteration / info.relative_path).read_bytes()[info.offset:info.offset + info.length]
        for record in zipfile.ZipFile(io.BytesIO(item)).infolist():
            if record.filename.endswith("data/0") and record.file_size:
                start = record.header_offset + 30 + sum(int.from_bytes(item[record.header_offset + at:record.header_offset + at + 2], "little") for at in (26, 28))
                out[index.fqn] = (iteration / info.relative_path, info.offset + start, record.file_size)
    return out


@pytest.fixture(scope="module")
def run(ponte, tiny, tmp_path_factory):
    """Training two steps, and what it saved."""
    root = tmp_path_factory.mktemp("damage")
    model, _ = tiny("qwen3", num_hidden_layers=2)
    corpus = write_corpus(root / "corpus", documents=12, shortest=40, longest=60)
    training = Training(ponte, root, "--hf-model", model, f"dataset.data_path=[{corpus}]", "dataset.split='100,0,0'", "train.train_iters=4",
                        "train.global_batch_size=2", "train.micro_batch_size=1", "model.seq_length=32", "optimizer.lr=1e-3", "validation.eval_interval=0",
                        "dist.distributed_timeout_seconds_after_init=200", "logger.tensorboard_dir=null")
    training.run("train.exit_interval=2", f"checkpoint.save={root / 'run'}", name="first")
    return training, root / "run"


class flipped:
    """One bit of a byte is another inside the block."""

    def __init__(self, file, position):
        self.file, self.position = file, position

    def turn(self):
        content = bytearray(self.file.read_bytes())
        content[self.position] ^= 4
        self.file.write_bytes(content)

    def __enter__(self):
        self.turn()

    def __exit__(self, *_):
        self.turn()


def refuses(training, saved, texts, *settings):
    steps, result = training.run(f"checkpoint.load={saved}", *settings, name="refused", code=1)
    assert not steps and all(text in result.err for text in texts), result
    assert result.err.count("error:") == 1, result


def chosen(saved):
    """Of each kind of tensor a byte, and bytes of the first and the last tensor of each file."""
    found = {name: place for name, place in places(saved / "iter_0000002").items() if not name.startswith("rng_state")}
    names = {kind: next(name for name in sorted(found) if name.startswith(prefix)) for kind, prefix in KINDS.items()}
    for file in {place[0] for place in found.values()}:
        inside = sorted((place[1], name) for name, place in found.items() if place[0] == file)
        names |= {f"first of {file.name}": inside[0][1], f"last of {file.name}": inside[-1][1]}
    return {name: found[name] for name in names.values()}


def test_a_run_on_the_same_layout_and_on_another(run):
    training, saved = run
    for number, (name, (file, start, size)) in enumerate(chosen(saved).items()):
        with flipped(file, start + (0, size // 2, size - 1)[number % 3]):
            refuses(training, saved, [file.name, name, "not what was written"], *(TP2 if number in (1, 3) else []))


def test_states_and_tables_of_a_run(run):
    training, saved = run
    iteration = saved / "iter_0000002"
    for name in (".metadata", "common.pt", "train_state.pt", "ponte/run.json", "ponte/manifest.json"):
        with flipped(iteration / name, (iteration / name).stat().st_size // 2):
            refuses(training, saved, [name])
    random = next((name, place) for name, place in places(iteration).items() if name.startswith("rng_state"))
    with flipped(random[1][0], random[1][1] + random[1][2] // 2):
        refuses(training, saved, [random[0], random[1][0].name])


@pytest.mark.parametrize("layout", [[], TP2], ids=["one rank", "two ranks"])
def test_a_file_that_is_cut_short(run, tmp_path, layout):
    training, saved = run
    shutil.copytree(saved, tmp_path / "run")
    file = sorted((tmp_path / "run/iter_0000002").glob("*.distcp"))[-1]
    file.write_bytes(file.read_bytes()[:-5000])
    refuses(training, tmp_path / "run", [file.name, "truncated"], *layout)


def test_conversions(ponte, run, tmp_path):
    _, saved = run
    for name, (file, start, size) in chosen(saved).items():
        with flipped(file, start + size // 2):
            texts = [file.name, f"'{name}'", "not what was written"]
            fails(ponte, "convert", "--megatron-path", saved, "--save", tmp_path / "c", "--ckpt-format", "fsdp_dtensor", with_text=texts)
            assert not list(tmp_path.iterdir()), "something was left behind"
            export = ("export", "--megatron-path", saved, "--hf-path", tmp_path / "hf")
            if name.startswith("optimizer."):
                ponte(*export, "--overwrite")  # its weights are what they were
                shutil.rmtree(tmp_path / "hf")
            else:
                fails(ponte, *export, with_text=texts)


@pytest.mark.parametrize("layout", [[], ["--tp", 2]], ids=["one rank", "two ranks"])
def test_generating(ponte, run, layout):
    _, saved = run
    name, (file, start, size) = next(iter(chosen(saved).items()))
    with flipped(file, start + size - 1):
        result = ponte("generate", "--megatron-path", saved, "--prompt", "a", "--max-new-tokens", 1, *layout, code=1, env={"OMP_NUM_THREADS": "1"})
        assert not result.out and file.name in result.err and name in result.err, result


def test_kept_exact_values(ponte, tiny, tmp_path):
    """Norms whose shift loses bits are kept beside the checkpoint; a damaged copy is no source of values."""
    from safetensors.torch import load_file, save_file
    folder, _ = tiny("qwen3_next")
    shutil.copytree(folder, tmp_path / "model")
    file = tmp_path / "model/model.safetensors"
    save_file({name: value * 1e-9 if name.endswith("norm.weight") else value for name, value in load_file(file).items()}, file, metadata={"format": "pt"})
    ponte("import", "--hf-model", tmp_path / "model", "--megatron-path", tmp_path / "m")
    kept = tmp_path / "m/iter_0000000/ponte/exact_values.safetensors"
    export = ("export", "--megatron-path", tmp_path / "m", "--hf-path", tmp_path / "hf")
    with flipped(kept, kept.stat().st_size - 1):
        fails(ponte, *export, with_text=["ponte/exact_values.safetensors"])
    ponte(*export)
