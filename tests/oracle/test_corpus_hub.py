"""`ponte preprocess --input org/name --subset ...`: only the subset's files are fetched, and only as far as documents are needed; offline from the cache."""
import gzip
import json

import pytest
from conftest import DEMO
from test_corpus_preprocess import same_files
from test_hub import Hub

CARD = b"""---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/*
- config_name: sample
  data_files:
  - split: train
    path: sample/*
---
"""


def lines(first, count):
    return "".join(json.dumps({"text": f"Document number {i} of the hub."}) + "\n" for i in range(first, first + count)).encode()


@pytest.mark.fast
def test_a_dataset_of_the_hub(ponte, tmp_path):
    hub = Hub()
    hub.files = {"README.md": CARD, "data/a.jsonl": lines(0, 5), "sample/1.jsonl": lines(100, 300), "sample/2.jsonl.gz": gzip.compress(lines(400, 300)),
                 "sample/notes.md": b"no data", "sample/3.jsonl": lines(700, 50000)}
    env = {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": hub.hub.url, "HF_TOKEN": "", "HF_HUB_OFFLINE": "", "HF_HUB_CACHE": ""}
    common = ["preprocess", "--input", "org/name", "--tokenizer-model", DEMO / "base", "--append-eod"]

    def fetched():
        return {request[1].split("/resolve/")[1].split("/", 1)[1] for request in hub.hub.requests if "/resolve/" in request[1]}
    try:
        error = ponte(*common, "--subset", "sampel", "--output-prefix", tmp_path / "out", env=env, code=1).err
        assert "no subset 'sampel', did you mean 'sample'?" in error and fetched() == {"README.md"}
        out = ponte(*common, "--subset", "sample", "--output-prefix", tmp_path / "part", "--max-docs", 250, "--workers", 1, env=env).out
        assert "250 documents" in out and "sample/3.jsonl" not in fetched() and "data/a.jsonl" not in fetched()
        ponte(*common, "--subset", "sample", "--output-prefix", tmp_path / "whole", env=env)
        assert fetched() == {"README.md", "sample/1.jsonl", "sample/2.jsonl.gz", "sample/3.jsonl"}
        requests = len(hub.hub.requests)
        ponte(*common, "--subset", "sample", "--output-prefix", tmp_path / "offline", env={**env, "HF_HUB_OFFLINE": "1"})
        assert len(hub.hub.requests) == requests
        same_files(tmp_path / "offline_text_document", tmp_path / "whole_text_document")
        for name in ("data/a.jsonl", "sample/1.jsonl", "sample/2.jsonl.gz", "sample/3.jsonl"):
            (tmp_path / "plain" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "plain" / name).write_bytes(hub.files[name])
        ponte("preprocess", "--input", tmp_path / "plain" / "sample", "--tokenizer-model", DEMO / "base", "--append-eod", "--output-prefix", tmp_path / "local")
        same_files(tmp_path / "local_text_document", tmp_path / "whole_text_document")
        ponte(*common, "--output-prefix", tmp_path / "default", env=env)
        assert "data/a.jsonl" in fetched()
        error = ponte("preprocess", "--subset", "sample-10BT", "--tokenizer-model", DEMO / "base", "--output-prefix", tmp_path / "x", env=env, code=1).err
        assert "HuggingFaceFW/fineweb" in error  # what --subset alone means; this hub does not have it
        error = ponte("preprocess", "--input", tmp_path / "plain", "--subset", "a", "--tokenizer-model", DEMO / "base", "--output-prefix", tmp_path / "x", env=env, code=1).err
        assert "--subset a goes with a dataset of the hub" in error
    finally:
        hub.close()
