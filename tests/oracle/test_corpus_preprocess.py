"""`ponte preprocess` against the bytes Megatron-LM's own tool wrote, and against its builder fed by transformers; kill -9, full disks, memory."""
import gzip
import json
import os
import pathlib
import random
import resource
import signal
import subprocess
import time

import numpy
import pytest
import transformers
from conftest import BIN, DEMO, GOLDEN, interrupted
from megatron.core.datasets.indexed_dataset import DType, IndexedDataset, IndexedDatasetBuilder

PAIRS = GOLDEN / "preprocess"


def same_files(ours, theirs):
    for suffix in (".bin", ".idx"):
        assert (ours.parent / (ours.name + suffix)).read_bytes() == (theirs.parent / (theirs.name + suffix)).read_bytes(), suffix


@pytest.mark.fast
@pytest.mark.parametrize("name, flags, keys", [
    ("plain", ["--workers", 1], ["text"]),
    ("eod", ["--append-eod", "--json-keys", "text", "title"], ["text", "title"]),
    ("eod", ["--append-eod", "--partitions", 3, "--keep-sequential-samples"], ["text"]),
    ("parts", ["--append-eod", "--partitions", 3, "--workers", 3], ["text"]),
])
def test_bytes_of_megatron_lm(name, flags, keys, ponte, tmp_path):
    ponte("preprocess", "--input", PAIRS / "input.jsonl", "--output-prefix", tmp_path / "out", "--tokenizer-model", DEMO / "base",
          "--tokenizer-type", "HuggingFaceTokenizer", "--log-interval", 10, *flags)
    for key in keys:
        same_files(tmp_path / f"out_{key}_document", PAIRS / f"{name}_{key}_document")
    assert sorted(os.listdir(tmp_path)) == sorted(f"out_{key}_document{suffix}" for key in keys for suffix in (".bin", ".idx"))


def wild_text(draw):
    pools = ["abc de,.!?'\"", "éüßçñ ", "日本語漢字 ", "😀👩‍👩‍👧🏳️‍🌈", "0123456789 ", "\n\r\t\x00\x1b\u2028\u0085", "ــًٌ العربية ", "e\u0301a\u0308\ufb01"]
    out = []
    for _ in range(draw.randrange(0, 12)):
        pool = draw.choice(pools)
        out.append("".join(draw.choice(pool) for _ in range(draw.randrange(1, 30))))
    return draw.choice(["", " ", "\n"]).join(out) + draw.choice(["", "", "<|endoftext|>"])


@pytest.mark.fast
def test_wild_lines_like_the_builder_fed_by_transformers(ponte, tmp_path):
    draw = random.Random(11)
    lines, texts = [], []
    for _ in range(600):
        text = [wild_text(draw) for _ in range(draw.randrange(0, 4))] if draw.random() < 0.2 else wild_text(draw)
        lines.append(json.dumps({"id": 1, "text": text}, ensure_ascii=draw.random() < 0.5))
        texts.append(text)
    (tmp_path / "in.jsonl").write_text("\n".join(lines), newline="")
    tokenizer = transformers.AutoTokenizer.from_pretrained(DEMO / "base")
    builder = IndexedDatasetBuilder(str(tmp_path / "wanted.bin"), dtype=DType.optimal_dtype(len(tokenizer)))
    for text in texts:
        parts = [ids for sentence in (text if isinstance(text, list) else [text]) if (ids := tokenizer(sentence).input_ids)]
        lengths = [len(ids) for ids in parts]
        ids = [i for part in parts for i in part]
        if ids:
            ids.append(tokenizer.eos_token_id)
            lengths[-1] += 1
        builder.add_document(ids, lengths)
    builder.finalize(str(tmp_path / "wanted.idx"))
    ponte("preprocess", "--input", tmp_path / "in.jsonl", "--output-prefix", tmp_path / "out", "--tokenizer-model", DEMO / "base", "--append-eod")
    same_files(tmp_path / "out_text_document", tmp_path / "wanted")


def prose(folder, copies, name="prose.jsonl"):
    text = gzip.decompress((DEMO / "prose.jsonl.gz").read_bytes())
    (folder / name).write_bytes(text * copies)
    return folder / name


@pytest.mark.fast
def test_compressed_input_gives_the_same_bytes(ponte, tmp_path):
    import zstandard
    plain = prose(tmp_path, 1)
    (tmp_path / "z.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(plain.read_bytes()))
    for name, source in (("plain", plain), ("gz", DEMO / "prose.jsonl.gz"), ("zst", tmp_path / "z.jsonl.zst")):
        ponte("preprocess", "--input", source, "--output-prefix", tmp_path / name, "--tokenizer-model", DEMO / "base")
    same_files(tmp_path / "gz_text_document", tmp_path / "plain_text_document")
    same_files(tmp_path / "zst_text_document", tmp_path / "plain_text_document")


@pytest.mark.parametrize("flags", [[], ["--partitions", 3]])
def test_killed_at_any_moment_and_run_again(flags, ponte, tmp_path):
    source = prose(tmp_path, 40)
    common = ["--input", source, "--tokenizer-model", DEMO / "base", "--append-eod", "--shard-bytes", 1 << 20, *flags]
    ponte("preprocess", *common, "--output-prefix", tmp_path / "whole")
    command = [str(BIN / "ponte"), "preprocess", *map(str, common), "--output-prefix", str(tmp_path / "killed")]
    draw, kills, went_on = random.Random(3), 0, 0
    for life in range(200):  # each ends before some change of a file; later ones reach further, so that the last gets to the end
        process = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL,
                                 env={**os.environ, **interrupted(change=draw.randint(1, 8 + 4 * life))})
        if process.returncode == -signal.SIGKILL:
            kills += 1
            assert not (tmp_path / "killed_text_document.idx").exists() or not (tmp_path / ".killed.preprocess" / "state.json").exists() or \
                json.loads((tmp_path / ".killed.preprocess" / "state.json").read_text())["finished"]
            continue
        if process.returncode == 0:
            went_on = b"going on after" in process.stderr
            break
        assert b"already exists" in process.stderr  # killed after the last move and before the folder went
        break
    assert kills > 2
    same_files(tmp_path / "killed_text_document", tmp_path / "whole_text_document")
    assert went_on or kills < 200


def test_memory_does_not_grow_with_the_input(tmp_path):
    def peak(copies):
        source = prose(tmp_path, copies)
        command = [str(BIN / "ponte"), "preprocess", "--input", str(source), "--output-prefix", str(tmp_path / f"m{copies}"), "--tokenizer-model", str(DEMO / "base"),
                   "--workers", "2"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        most = 0  # MB; getrusage would count the pages of this Python before exec
        while process.poll() is None:
            status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
            most = max([most] + [int(line.split()[1]) // 1024 for line in status.splitlines() if line.startswith("VmHWM")])
            time.sleep(0.01)
        assert process.returncode == 0
        return most
    small, large = peak(5), peak(25)
    assert large < small + 30 and large < 200, (small, large)


@pytest.mark.fast
def test_ids_wider_than_the_format_are_named(ponte, tmp_path):
    """A vocabulary of few tokens is stored in 16 bits, as Megatron does; one of them may still have a high id."""
    tokenizer = json.loads((DEMO / "base" / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"][max(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)] = 70000
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    word = next(t for t, i in tokenizer["model"]["vocab"].items() if i == 70000)
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in ("a", word.replace("Ġ", " "), "b")))
    command = ["preprocess", "--input", tmp_path / "in.jsonl", "--output-prefix", tmp_path / "out", "--tokenizer-model", tmp_path]
    assert "in.jsonl:2: the tokenizer gives it id 70000" in ponte(*command, code=1).err
    result = ponte(*command, "--on-error", "skip")
    assert "2 documents, 2 tokens" in result.out and "1 bad documents skipped" in result.out


def test_a_run_goes_on_with_its_own_tokenizer_only(ponte, tmp_path):
    """What a stopped run left is thrown away when the tokenizer has changed, whichever its file is."""
    import test_sentencepiece
    text = ["one two three four five six seven " * 40, "a bridge is a bridge is a bridge " * 40]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in text * 2000) + "no\n")
    command = ["preprocess", "--input", tmp_path / "in.jsonl", "--tokenizer-model", tmp_path / "tokenizer", "--shard-bytes", 1]
    test_sentencepiece.train(tmp_path / "tokenizer", text[:1] * 30, vocab_size=40)
    ponte(*command, "--output-prefix", tmp_path / "out", code=1)
    test_sentencepiece.train(tmp_path / "tokenizer", text[1:] * 30, vocab_size=60)
    result = ponte(*command, "--output-prefix", tmp_path / "out", "--on-error", "skip")
    assert "starting afresh" in result.err, result
    ponte(*command, "--output-prefix", tmp_path / "whole", "--on-error", "skip")
    same_files(tmp_path / "out_text_document", tmp_path / "whole_text_document")


def test_a_full_disk_is_named_and_nothing_is_lost(ponte, tmp_path):
    source = prose(tmp_path, 4)

    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, 2 << 20))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    command = [str(BIN / "ponte"), "preprocess", "--input", str(source), "--output-prefix", str(tmp_path / "out"), "--tokenizer-model", str(DEMO / "base"),
               "--shard-bytes", "1000000"]
    process = subprocess.run(command, capture_output=True, text=True, preexec_fn=small_files)
    assert process.returncode == 1 and "cannot write" in process.stderr and "File too large" in process.stderr, process.stderr
    assert not (tmp_path / "out_text_document.bin").exists()
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0 and "going on after" in again.stderr
    ponte("preprocess", "--input", source, "--output-prefix", tmp_path / "whole", "--tokenizer-model", DEMO / "base")
    same_files(tmp_path / "out_text_document", tmp_path / "whole_text_document")


@pytest.mark.fast
@pytest.mark.parametrize("flags, message", [
    (["--split-sentences"], "--split-sentences: "),
    (["--keep-newlines"], "--keep-newlines: "),
    (["--input", "/dev/null"], "--input /dev/null: not a regular file"),
    (["--tokenizer-type", "GPT2BPETokenizer"], "only HuggingFaceTokenizer"),
    (["--on-error", "ignore"], "on-error"),
    (["--tokenizr-model", "x"], "did you mean --tokenizer-model?"),
    (["--workers", "-1"], "--workers: -1 found"),
])
def test_wrong_flags_are_named(flags, message, ponte, tmp_path):
    result = ponte("preprocess", "--input", PAIRS / "input.jsonl", "--output-prefix", tmp_path / "out", "--tokenizer-model", DEMO / "base", *flags, code=1)
    assert message in result.err and not list(tmp_path.iterdir())


@pytest.mark.fast
def test_data_commands(ponte, tmp_path):
    for name in ("plain", "parts"):
        ponte("data", "verify", PAIRS / f"{name}_text_document")
    ponte("data", "merge", "--input", PAIRS / "plain_text_document", PAIRS / "eod_title_document.bin", "--output-prefix", tmp_path / "joined")
    builder = IndexedDatasetBuilder(str(tmp_path / "wanted.bin"), dtype=numpy.uint16)
    builder.add_index(str(PAIRS / "plain_text_document"))
    builder.add_index(str(PAIRS / "eod_title_document"))
    builder.finalize(str(tmp_path / "wanted.idx"))
    same_files(tmp_path / "joined", tmp_path / "wanted")
    assert "already exists" in ponte("data", "merge", "--input", PAIRS / "plain_text_document", "--output-prefix", tmp_path / "joined", code=1).err
    out = ponte("data", "inspect", PAIRS / "plain_text_document.idx", "--tokenizer-model", DEMO / "base", "--document", 0, 56).out
    assert "57 documents" in out and "Hello world." in out and "no newline at the end" in out
    dataset = IndexedDataset(str(PAIRS / "plain_text_document"))
    assert f"{len(dataset)} sequences" in out and f"{int(dataset.sequence_lengths.sum())} tokens" in out
    (tmp_path / "d.bin").write_bytes((PAIRS / "plain_text_document.bin").read_bytes())
    boundary = 34 + 12 * len(dataset) + 8  # the end of the first document
    for place, value, message in ((42, 1 << 20, "d.idx: sequence 3 starts at byte"), (boundary, -500_000_000, "d.idx: document 0 ends at sequence -500000000"),
                                  (boundary, 10 ** 15, "d.idx: document 0 ends at sequence 1000000000000000")):
        damaged = bytearray((PAIRS / "plain_text_document.idx").read_bytes())
        width = 8 if place == boundary else 4
        damaged[place:place + width] = value.to_bytes(width, "little", signed=True)
        (tmp_path / "d.idx").write_bytes(damaged)
        for command in (["verify"], ["inspect", "--document", 1], ["merge", "--output-prefix", tmp_path / "e", "--input"]):
            assert message in ponte("data", *command, tmp_path / "d", code=1).err
    assert not list(tmp_path.glob(".e*"))


@pytest.mark.fast
def test_merging_on_a_full_disk_gives_its_room_back(tmp_path):
    for suffix in (".bin", ".idx"):
        (tmp_path / f"a{suffix}").write_bytes((PAIRS / f"plain_text_document{suffix}").read_bytes())

    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    process = subprocess.run([BIN / "ponte", "data", "merge", "--input", "a", "a", "--output-prefix", "b"], capture_output=True, text=True, preexec_fn=small_files, cwd=tmp_path)
    assert process.returncode == 1 and "cannot write" in process.stderr, process.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.bin", "a.idx"]


def has_parquet(ponte, tmp_path):
    """Whether the build found pyarrow; where it did not, the program must say so."""
    if (BIN / "libponte_parquet.so").exists():
        return True
    (tmp_path / "p.parquet").write_bytes(b"PAR1")
    error = ponte("preprocess", "--input", tmp_path / "p.parquet", "--output-prefix", tmp_path / "out", "--tokenizer-model", DEMO / "base", code=1).err
    assert "p.parquet: this build reads no Parquet files" in error
    return False


@pytest.mark.fast
def test_parquet_like_the_same_rows_as_json_lines(ponte, tmp_path):
    if not has_parquet(ponte, tmp_path):
        return
    import pyarrow
    import pyarrow.parquet
    draw = random.Random(9)
    texts = [wild_text(draw) for _ in range(2500)]
    titles = [f"title {i}" for i in range(2500)]
    (tmp_path / "in.jsonl").write_text("\n".join(json.dumps({"text": t, "title": u}) for t, u in zip(texts, titles)))
    common = ["--tokenizer-model", DEMO / "base", "--append-eod", "--json-keys", "title", "text"]
    ponte("preprocess", "--input", tmp_path / "in.jsonl", "--output-prefix", tmp_path / "json", *common)
    kinds = {"plain": pyarrow.string(), "large": pyarrow.large_string(), "binary": pyarrow.binary()}
    for name, kind in kinds.items():
        encoded = [t.encode() for t in texts] if name == "binary" else texts
        table = pyarrow.table({"id": list(range(2500)), "text": pyarrow.array(encoded, kind), "nested": [[{"a": i}] for i in range(2500)], "title": titles})
        pyarrow.parquet.write_table(table, tmp_path / f"{name}.parquet", row_group_size=700, compression={"plain": "zstd", "large": "snappy", "binary": "gzip"}[name])
        ponte("preprocess", "--input", tmp_path / f"{name}.parquet", "--output-prefix", tmp_path / name, *common)
        for key in ("text", "title"):
            same_files(tmp_path / f"{name}_{key}_document", tmp_path / f"json_{key}_document")


@pytest.mark.fast
def test_parquet_that_goes_wrong(ponte, tmp_path):
    if not has_parquet(ponte, tmp_path):
        return
    import pyarrow
    import pyarrow.parquet
    file = tmp_path / "x.parquet"
    common = ["preprocess", "--input", file, "--output-prefix", tmp_path / "out", "--tokenizer-model", DEMO / "base"]
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", None, "c" * 1000, "d"], "list": [["x"]] * 4, "number": [1] * 4}), file)
    whole = file.read_bytes()
    assert "x.parquet:2: column 'text' holds no value (null)" in ponte(*common, code=1).err
    assert "column 'list' is list<" in ponte(*common, "--json-keys", "list", code=1).err
    assert "column 'number' is int64, wanted strings" in ponte(*common, "--json-keys", "number", code=1).err
    assert "no column 'txt'; there are: text, list, number" in ponte(*common, "--json-keys", "txt", code=1).err
    result = ponte(*common, "--on-error", "skip", "--max-document-bytes", 500)
    assert "x.parquet:3: a document of 1.00 kB" in result.err and "2 documents" in result.out and "2 bad documents" in result.out
    for damaged in (whole[:-20], whole[:50], b"", b"PAR1" + b"\0" * 100, whole[:20] + b"\xff" * 60 + whole[80:]):
        file.write_bytes(damaged)
        assert "x.parquet" in ponte(*common, "--overwrite", code=1).err


def test_parquet_with_damage_anywhere(ponte, tmp_path):
    """Bytes changed in pages, dictionaries and the footer: the whole corpus, or an error that names the file; never a fault of the program."""
    if not has_parquet(ponte, tmp_path):
        return
    import pyarrow
    import pyarrow.parquet
    draw, file = random.Random(31), tmp_path / "x.parquet"
    for compression in ("snappy", "zstd", "none"):
        pyarrow.parquet.write_table(pyarrow.table({"text": [wild_text(draw) for _ in range(300)], "nested": [{"a": [i]} for i in range(300)]}), file,
                                    row_group_size=100, compression=compression, write_page_checksum=compression == "zstd")
        whole = file.read_bytes()
        for _ in range(3):
            damaged = bytearray(whole)
            for _ in range(draw.choice([1, 3, 30])):
                damaged[draw.choice([draw.randrange(len(whole)), len(whole) - 1 - draw.randrange(600)])] = draw.randrange(256)
            file.write_bytes(damaged)
            process = subprocess.run([BIN / "ponte", "preprocess", "--input", file, "--output-prefix", tmp_path / "out", "--overwrite", "--tokenizer-model", DEMO / "base"],
                                     capture_output=True, text=True)
            assert process.returncode in (0, 1), process
            assert process.returncode == 0 or "x.parquet" in process.stderr, process.stderr


def test_parquet_goes_on_after_a_kill(ponte, tmp_path):
    if not has_parquet(ponte, tmp_path):
        return
    import pyarrow
    import pyarrow.parquet
    rows = [json.loads(line)["text"] for line in gzip.decompress((DEMO / "prose.jsonl.gz").read_bytes()).splitlines()] * 8
    pyarrow.parquet.write_table(pyarrow.table({"text": rows}), tmp_path / "x.parquet", row_group_size=500)
    common = ["preprocess", "--input", tmp_path / "x.parquet", "--tokenizer-model", DEMO / "base", "--shard-bytes", 1000]
    ponte(*common, "--output-prefix", tmp_path / "whole")
    command = [str(BIN / "ponte"), *map(str, common), "--output-prefix", str(tmp_path / "killed")]
    state = tmp_path / ".killed.preprocess" / "state.json"
    for rows_before in (1, 1500, 4000):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while process.poll() is None and not (state.exists() and json.loads(state.read_text())["line"] > rows_before):
            time.sleep(0.002)
        process.kill()
        process.wait()
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0 and "going on after" in result.stderr
    same_files(tmp_path / "killed_text_document", tmp_path / "whole_text_document")
