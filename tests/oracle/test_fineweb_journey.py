"""docs/journeys/fineweb.md on a slice: Parquet, tokens, training with the 3B's layers at a small width, resuming, export, transformers, text."""
import gzip
import json
import re

import pyarrow
import pyarrow.parquet
import pytest
import torch
import transformers
from conftest import ROOT
from parity import Probe, batch
from training import ONE_THREAD, comparable

STEPS, STOP = 24, 16
SMALL = ["model.tensor_model_parallel_size=1", "model.sequence_parallel=false", "model.hidden_size=48", "model.ffn_hidden_size=64", "model.num_attention_heads=2",
         "model.num_query_groups=1", "model.kv_channels=16", "model.vocab_size=8192", "model.num_moe_experts=8", "model.moe_router_topk=2",
         "model.moe_ffn_hidden_size=24", "model.moe_shared_expert_intermediate_size=24", "model.linear_key_head_dim=12", "model.linear_value_head_dim=16",
         "model.linear_num_key_heads=2", "model.linear_num_value_heads=2", "model.seq_length=64", "model.init_method_std=0.05", "mixed_precision=fp32",
         "train.global_batch_size=8", "train.micro_batch_size=4", f"train.train_iters={STEPS}", "optimizer.lr=5e-3", "optimizer.min_lr=5e-4",
         "scheduler.lr_warmup_iters=2", "validation.eval_iters=4", "dataset.split='90,10,0'"]


def fineweb_slice(demo, file, documents=400):
    """The columns of FineWeb, with the demo's prose for text."""
    with gzip.open(demo / "prose.jsonl.gz", "rt") as lines:
        texts = [json.loads(line)["text"] for line, _ in zip(lines, range(documents))]
    n = len(texts)
    pyarrow.parquet.write_table(pyarrow.table({
        "text": texts, "id": [f"<urn:uuid:{i}>" for i in range(n)], "dump": ["CC-MAIN-2024-10"] * n, "url": [f"https://example.org/{i}" for i in range(n)],
        "date": ["2024-03-01T00:00:00Z"] * n, "file_path": ["s3://slice"] * n, "language": ["en"] * n, "language_score": [0.95] * n,
        "token_count": [len(t) // 4 for t in texts]}), file, row_group_size=100)
    return n


def test_journey(ponte, demo, tmp_path):
    (tmp_path / "slice").mkdir()
    documents = fineweb_slice(demo, tmp_path / "slice/000_00000.parquet")
    ponte("preprocess", "--input", tmp_path / "slice", "--output-prefix", tmp_path / "fineweb_qwen3", "--tokenizer-model", demo / "base", "--append-eod",
          "--workers", 1)
    assert (tmp_path / "fineweb_qwen3_text_document.idx").exists() and documents > 50

    def train(name, *settings):
        ponte("train", "--recipe", "qwen3_next_3b_fineweb", *SMALL, f"dataset.data_path=[{tmp_path / 'fineweb_qwen3_text_document'}]",
              f"tokenizer.tokenizer_model={demo / 'base'}", f"checkpoint.save={tmp_path / name}", f"checkpoint.load={tmp_path / name}",
              f"logger.jsonl={tmp_path / name}.jsonl", f"logger.tensorboard_dir={tmp_path / name}_tb", f"validation.eval_interval={STOP // 2}",
              f"checkpoint.save_interval={STOP}", *settings, env=ONE_THREAD, timeout=900)
        return [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]

    first = train("run", f"train.exit_interval={STOP}")
    assert first[-1]["iteration"] == STOP
    steps = train("run")
    validation = [step["val_loss"] for step in steps if "val_loss" in step]
    assert len(validation) >= 3 and validation == sorted(validation, reverse=True) and validation[-1] < validation[0] - 0.1, validation
    whole = train("whole")
    assert comparable(steps) == comparable(whole)  # stopped and resumed is never stopped

    ponte("export", "--megatron-path", tmp_path / "run", "--hf-path", tmp_path / "hf")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32, attn_implementation="eager").eval()
    assert type(model).__name__ == "Qwen3NextForCausalLM"
    guide = "fllf llfl lllf llfl lllf llfl".replace(" ", "")
    assert [kind[0] for kind in model.config.layer_types] == list(guide)
    data = batch(8192, length=60)
    with torch.no_grad():
        wanted = model(input_ids=data[0], use_cache=False).logits
    assert (Probe(tmp_path / "hf", data, tmp_path / "probe").logits - wanted).abs().max() <= 1e-5 * wanted.abs().max()

    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    prompt = "It was a"
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    with torch.no_grad():
        wanted = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)[0, ids.shape[1]:]
    text = ponte("generate", "--hf-model-path", tmp_path / "hf", "--prompt", prompt, "--max-new-tokens", 12, "--no-echo", "--torch-dtype", "fp32",
                 env=ONE_THREAD).out
    assert text.strip() == tokenizer.decode(wanted, skip_special_tokens=True).strip()


def test_the_settings_it_offers_are_a_configuration(ponte):
    """Each row of the page's table, beside the recipe, on the eight ranks it speaks of."""
    page = (ROOT / "docs/journeys/fineweb.md").read_text()
    rows = [row for row in re.findall(r"^\| `([a-z_]+\.[^`]*)`", page, re.MULTILINE) if "..." not in row]
    assert len(rows) > 5
    for row in rows:
        shown = ponte("train", "--recipe", "qwen3_next_3b_fineweb", "--nproc-per-node", 8, "--dry-run", *row.split())
        assert shown.out.count("# command line") >= len(row.split()) and "lacks" not in shown.err, row
