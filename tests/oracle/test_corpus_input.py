"""Inputs of `ponte preprocess` as they come: FineWeb's Parquet files, folders and patterns, corpora of nothing, lines of a gigabyte; `data inspect` in colour."""
import gzip
import json
import os
import pathlib
import pty
import random
import re
import subprocess
import time

import numpy
import pytest
from conftest import BIN, DEMO, GOLDEN
from test_corpus_preprocess import has_parquet, same_files, wild_text

TOKENIZER = ["--tokenizer-model", DEMO / "base", "--append-eod"]
FINEWEB_CARD = """---
license: odc-by
configs:
- config_name: default
  data_files:
  - split: train
    path: data/*/*
- config_name: sample-10BT
  data_files:
  - split: train
    path: sample/10BT/*
- config_name: sample-100BT
  data_files:
  - split: train
    path: sample/100BT/*
---
"""


def write_fineweb(file, texts, compression, rows_per_group):
    """The columns and types of FineWeb's files."""
    import pyarrow
    import pyarrow.parquet
    n = len(texts)
    table = pyarrow.table({
        "text": texts, "id": [f"<urn:uuid:{i}>" for i in range(n)], "dump": ["CC-MAIN-2013-20"] * n, "url": [f"http://a.example/{i}" for i in range(n)],
        "date": ["2013-05-18T05:48:59Z"] * n, "file_path": ["s3://commoncrawl/x.warc.gz"] * n, "language": ["en"] * n,
        "language_score": pyarrow.array([0.97] * n, pyarrow.float64()), "token_count": pyarrow.array([717] * n, pyarrow.int64())})
    file.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, file, compression=compression, row_group_size=rows_per_group, use_dictionary=compression == "snappy")


@pytest.mark.fast
def test_fineweb_as_its_guide_says(ponte, tmp_path):
    if not has_parquet(ponte, tmp_path):
        return
    draw = random.Random(21)
    texts = [wild_text(draw) for _ in range(900)]
    repository = tmp_path / "hf" / "hub" / "datasets--HuggingFaceFW--fineweb"
    snapshot = repository / "snapshots" / ("0123456789" * 4)
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(snapshot.name)
    write_fineweb(snapshot / "sample" / "10BT" / "000_00000.parquet", texts[:400], "snappy", 150)
    write_fineweb(snapshot / "sample" / "10BT" / "001_00000.parquet", texts[400:], "zstd", 1000)
    write_fineweb(snapshot / "sample" / "100BT" / "000_00000.parquet", ["not this one"], "snappy", 1)
    (snapshot / "README.md").write_text(FINEWEB_CARD)
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    env = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_CACHE": "", "HF_HUB_OFFLINE": "1"}
    for limit in (0, 555):  # of --max-docs; it ends inside the second file
        ponte("preprocess", "--output-prefix", tmp_path / f"fineweb{limit}", "--subset", "sample-10BT", "--tokenizer-model", DEMO / "base", "--max-docs", limit,
              "--workers", 8, "--append-eod", env=env)
        ponte("preprocess", "--input", tmp_path / "in.jsonl", "--output-prefix", tmp_path / f"lines{limit}", *TOKENIZER, "--max-docs", limit)
        same_files(tmp_path / f"fineweb{limit}_text_document", tmp_path / f"lines{limit}_text_document")
    for name, source in (("folder", snapshot / "sample" / "10BT"), ("pattern", f"{snapshot}/sample/10BT/*.parquet")):
        ponte("preprocess", "--input", source, "--output-prefix", tmp_path / name, *TOKENIZER)
        same_files(tmp_path / f"{name}_text_document", tmp_path / "lines0_text_document")
    error = ponte("preprocess", "--subset", "sample-10TB", "--output-prefix", tmp_path / "x", *TOKENIZER, env=env, code=1).err
    assert "no subset 'sample-10TB', did you mean 'sample-10BT'?" in error


@pytest.mark.fast
@pytest.mark.parametrize("content", [b"", b"\n \n\r\n", b"\xef\xbb\xbf"])
def test_a_corpus_of_nothing_is_whole_and_trains_nobody(content, ponte, tmp_path):
    (tmp_path / "in.jsonl").write_bytes(content)
    assert "0 documents" in ponte("preprocess", "--input", tmp_path / "in.jsonl", "--output-prefix", tmp_path / "out", *TOKENIZER).out
    prefix = tmp_path / "out_text_document"
    assert "0 documents" in ponte("data", "verify", prefix).out and "0 documents" in ponte("data", "inspect", prefix).out
    for order, message in (("megatron", "hold no tokens"), ("permutation", "too few for one sample")):
        error = ponte("data", "samples", "--data-path", prefix, "--seq-length", 8, "--num-samples", "1,0,0", "--order", order, code=1).err
        assert "out_text_document" in error and message in error, error


def test_a_line_of_a_gigabyte_is_passed_over_in_bounded_memory(tmp_path):
    import zstandard
    good = json.dumps({"text": "Good."}).encode() + b"\n"
    with open(tmp_path / "in.jsonl.zst", "wb") as out, zstandard.ZstdCompressor(level=1).stream_writer(out) as writer:
        writer.write(good + b'{"text": "')
        for _ in range(1024):
            writer.write(b"a" * (1 << 20))
        writer.write(b'"}\n' + good)
    command = [BIN / "ponte", "preprocess", "--input", tmp_path / "in.jsonl.zst", "--output-prefix", tmp_path / "out", *TOKENIZER, "--max-document-bytes", 10 << 20]

    def run(*more):
        process = subprocess.Popen([str(c) for c in (*command, *more)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        peak = 0  # MB
        while process.poll() is None:
            status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
            peak = max([peak] + [int(line.split()[1]) // 1024 for line in status.splitlines() if line.startswith("VmHWM")])
            time.sleep(0.01)
        return process.returncode, *process.communicate(), peak

    code, _, error, peak = run()
    assert code == 1 and "in.jsonl.zst:2: a document of 1.07 GB, longer than --max-document-bytes" in error and peak < 200, (error, peak)
    code, out, error, peak = run("--on-error", "skip")
    assert code == 0 and "2 documents" in out and "1 bad documents skipped" in out and "in.jsonl.zst:2" in error and peak < 200, (out, error, peak)


@pytest.mark.fast
def test_bad_lines_are_skipped_and_counted(ponte, tmp_path):
    good = json.dumps({"text": "Good."})
    bad = ['{"text": "\\ud800"}', '{"text": 5}', "{", '{"txt": "x"}', '{"text": ["a", null]}', '{"text": "a\0b"}', "[" * 5000, "\xff"]
    lines = [line for pair in zip(bad, [good] * len(bad)) for line in pair] + ['{"text": "no", "text": "Good."}', '{"text": "nul \\u0000 inside"}']
    raw = "\n".join(lines).encode("latin-1")
    for name, content in (("in.jsonl", raw), ("in.jsonl.gz", gzip.compress(raw))):
        (tmp_path / name).write_bytes(content)
        result = ponte("preprocess", "--input", tmp_path / name, "--output-prefix", tmp_path / name, *TOKENIZER, "--on-error", "skip", "--workers", 3)
        assert f"{len(bad) + 2} documents" in result.out and f"{len(bad)} bad documents skipped" in result.out, result
        assert [int(line) for line in re.findall(rf"skipped .*{name}:(\d+): ", result.err)] == [2 * i + 1 for i in range(len(bad))], result.err
        shown = ponte("data", "inspect", f"{tmp_path / name}_text_document", "--tokenizer-model", DEMO / "base", "--document", len(bad), len(bad) + 1).out
        assert "Good.<|" in shown and "nul \0 inside" in shown
        error = ponte("preprocess", "--input", tmp_path / name, "--output-prefix", tmp_path / "stop", *TOKENIZER, code=1).err
        assert f"{name}:1: 'text' holds a lone surrogate" in error and "--on-error skip" in error


@pytest.mark.fast
def test_documents_are_decoded_in_colour_on_a_terminal(ponte):
    prefix = GOLDEN / "preprocess" / "eod_text_document"
    arguments = ["data", "inspect", prefix, "--tokenizer-model", DEMO / "base", "--document", "0"]
    plain = ponte(*arguments).out
    terminal, other = pty.openpty()
    process = subprocess.Popen([str(a) for a in (BIN / "ponte", *arguments)], stdout=other, stderr=subprocess.DEVNULL)
    os.close(other)
    screen = b""
    while True:
        try:
            piece = os.read(terminal, 1 << 16)
        except OSError:  # the other end is closed
            break
        screen += piece
    os.close(terminal)
    assert process.wait() == 0
    screen = screen.decode().replace("\r\n", "\n")
    shown = screen[screen.index("document 0:"):]
    tokens = re.findall(r"\033\[30;4([63])m(.*?)\033\[0m", shown, re.DOTALL)
    count = int(re.search(r"(\d+) tokens\n", shown)[1])
    assert len(tokens) == count and [colour for colour, _ in tokens] == [("6", "3")[i % 2] for i in range(count)]
    assert re.sub(r"\033\[[\d;]*m", "", screen) == plain and "\033" not in plain


@pytest.mark.fast
def test_merging_what_does_not_fit_together(ponte, tmp_path):
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder
    for name, dtype in (("narrow", numpy.uint16), ("wide", numpy.int32)):
        builder = IndexedDatasetBuilder(str(tmp_path / f"{name}.bin"), dtype=dtype)
        builder.add_document([1, 2, 3], [3])
        builder.finalize(str(tmp_path / f"{name}.idx"))
    error = ponte("data", "merge", "--input", tmp_path / "narrow", tmp_path / "wide", "--output-prefix", tmp_path / "out", code=1).err
    assert "wide: ids are I32, but U16 in" in error
    (tmp_path / "narrow.bin").write_bytes(b"\1\0\2\0")
    for command in (["verify", tmp_path / "narrow"], ["inspect", tmp_path / "narrow"], ["merge", "--input", tmp_path / "narrow", "--output-prefix", tmp_path / "out"],
                    ["samples", "--data-path", tmp_path / "narrow", "--seq-length", 2]):
        error = ponte("data", *command, code=1).err
        assert "narrow.bin: 4 bytes, but narrow.idx places its last sequence at bytes up to 6" in error, error
    assert sorted(p.name for p in tmp_path.iterdir()) == ["narrow.bin", "narrow.idx", "wide.bin", "wide.idx"]
