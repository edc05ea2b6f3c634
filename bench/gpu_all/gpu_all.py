#!/usr/bin/env python3
"""Everything there is to measure on a CUDA card, in three commands of at most ten minutes each; no network is needed.

    bench/gpu_all/gpu_all.py build   [--bundle build/bundle]   preset cuda, programs and tests
    bench/gpu_all/gpu_all.py tests                             the tests of what a card runs
    bench/gpu_all/gpu_all.py figures [--only ROW ...]          every row of the table below, each beside its peer where there is one
    bench/gpu_all/gpu_all.py --dry                             tests and figures at tiny size on the processor: whether this script works

Run with the python3 whose torch is the CUDA wheel (transformers too, for the peers). Before that, on a machine with package registries:
tools/bundle.py --cuda-python PYTHON. figures prints a table and files everything as JSON under --out (build/gpu_all).
"""
import argparse
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
SECONDS = 570  # for one command
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "B200": 2250e12}  # dense bf16 of the data sheets
BANDWIDTHS = {"H100": 3.35e12, "H200": 4.8e12, "A100": 2.04e12, "B200": 8.0e12}
TESTS = ["kernels_fused_test", "moe_test", "optim_test",
         "kernels_test", "model_device_test", "checkpoint_ranks_test", "equality_test"]  # compute on PONTE_TEST_DEVICE; ranks are threads that share it
TINY = ("model.num_layers=2 model.hidden_size=64 model.ffn_hidden_size=96 model.num_attention_heads=4 model.num_query_groups=2 model.kv_channels=16 "
        "model.vocab_size=8192 -sl 64").split()
TINY_EXPERTS = "model.num_moe_experts=4 model.moe_router_topk=2 model.moe_ffn_hidden_size=32".split()
TINY_NEXT = "model.layer_types=[linear_attention,full_attention]".split()

# Training rows: recipe, what differs from it on one card, micro-batch, micro-batches a step, what the issue of a row aims at, and the peer's name.
TRAINING = {
    "dense-1p7b": dict(recipe="qwen3_1p7b_pretrain_config", set=[], micro=4, steps=2, aim=("mfu", 0.55), tiny=TINY, peer="qwen3"),
    "dense-4b": dict(recipe="qwen3_4b_pretrain_config", set=["-tp", "1"], micro=2, steps=4, aim=("mfu", 0.55), tiny=TINY, peer=None),
    "moe-30b-a3b-layers": dict(recipe="qwen3_30b_a3b_pretrain_config", set=["model.num_layers=6", "-ep", "1"], micro=4, steps=2, aim=("mfu", 0.35),
                               tiny=TINY + TINY_EXPERTS, peer=None),
    "next-3b-a1b": dict(recipe="qwen3_next_3b_fineweb", set=["-tp", "1", "-ep", "1"], micro=2, steps=2, aim=("mfu", 0.40),
                        tiny=None, peer=None),
    "lora-8b": dict(recipe="qwen3_8b_peft_config", set=["peft=lora", "dataset.kind=gpt"], micro=4, steps=2, aim=("tokens_per_second", 14000), tiny=TINY, peer=None),
}


class Bench:
    def __init__(self, options):
        self.dry, self.out = options.dry, options.out
        self.deadline = time.monotonic() + SECONDS
        self.out.mkdir(parents=True, exist_ok=True)
        self.bin = ROOT / "build" / ("release" if self.dry else "cuda") / "bin"
        self.device = "cpu" if self.dry else "cuda"
        self.rows = []

    def left(self):
        return self.deadline - time.monotonic()

    def run(self, command, log, **environment):
        """Its output, or None when it fails or time is up; everything it said is in the log."""
        started = time.monotonic()
        with open(self.out / f"{log}.log", "w") as file:
            file.write(" ".join(map(str, command)) + "\n")
            file.flush()
            try:
                done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, stderr=file, text=True, timeout=max(self.left(), 1), cwd=ROOT,
                                      env={**os.environ, **environment})
            except subprocess.TimeoutExpired:
                self.note = f"no time left after {time.monotonic() - started:.0f} s"
                return None
            file.write(done.stdout)
        self.note = "" if done.returncode == 0 else f"exit {done.returncode}; " + last_line(self.out / f"{log}.log")
        return done.stdout if done.returncode == 0 else None

    def add(self, name, **values):
        self.rows.append({"row": name, **values})
        print(json.dumps(self.rows[-1]), flush=True)


def last_line(file):
    lines = [line for line in file.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def card():
    try:
        text = subprocess.run(["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"], capture_output=True, text=True).stdout
    except FileNotFoundError:
        text = ""
    return text.strip() or "no card"


def of_card(table, name):
    return next((value for key, value in table.items() if key in name), None)


def corpus(bench):
    prefix = bench.out / "prose"
    if not (bench.out / "prose_text_document.idx").exists():
        bench.run([bench.bin / "ponte", "preprocess", "--input", ROOT / "demo/prose.jsonl.gz", "--output-prefix", prefix, "--tokenizer-model", ROOT / "demo/base",
                   "--append-eod"], "preprocess")
    return f"{prefix}_text_document"


def training_row(bench, name, row, data):
    metrics = bench.out / f"{name}.jsonl"
    iterations = 4 if bench.dry else 14
    micro, count = (1, 2) if bench.dry else (row["micro"], row["steps"])
    command = [bench.bin / "ponte", "train", "--recipe", row["recipe"], "--device", bench.device, *row["set"], "-mb", micro, "-gb", micro * count,
               f"train.train_iters={iterations}", "validation.eval_iters=0", "scheduler.lr_warmup_iters=1", "checkpoint.save=null", f"logger.jsonl={metrics}",
               "logger.log_interval=1", "logger.tensorboard_dir=null", "tokenizer.tokenizer_type=NullTokenizer", f"dataset.data_path=[{data}]",
               *(row["tiny"] if bench.dry else ["-sl", "4096"])]
    text = bench.run(command, name)
    if text is None or not metrics.exists():
        return bench.add(name, unavailable=bench.note)
    steps = [json.loads(line) for line in metrics.read_text().splitlines()][2 if bench.dry else 4:]  # the first ones choose kernels and fill caches
    log = (bench.out / f"{name}.log").read_text()
    teraflops = [float(value) for value in re.findall(r"TFLOP/s/GPU\): ([\d.eE+-]+)", log)]
    peak = of_card(PEAKS, card())
    values = dict(tokens_per_second=statistics.median(step["tokens_per_second"] for step in steps),
                  ms_per_iteration=statistics.median(step["ms_per_iteration"] for step in steps), last_loss=steps[-1]["lm_loss"],
                  tflops=statistics.median(teraflops[len(teraflops) // 2:]) if teraflops else None, attention=backend(log), command=" ".join(map(str, command)))
    if peak and values["tflops"]:
        values["mfu"] = values["tflops"] * 1e12 / peak
    values["aim"] = list(row["aim"])
    bench.add(name, **values)
    if row["peer"]:
        peer(bench, f"{name}-transformers", "step", row["peer"], micro)


def backend(log):
    found = re.search(r"attention through (\w+)", log)
    return found[1] if found else None


def peer(bench, name, what, *more):
    text = bench.run([sys.executable, ROOT / "bench/gpu_all/peer.py", what, *more, "--device", bench.device, *(["--tiny"] if bench.dry else [])], name)
    bench.add(name, **(json.loads(text.splitlines()[-1]) if text else {"unavailable": bench.note}))


def decoding_rows(bench):
    """A Qwen3-8B-shaped model of random weights, written once: how fast its files reach the card, and greedy decoding of one sequence."""
    folder = bench.out / "model"
    peer(bench, "make-8b", "make", "--folder", folder)
    if not (folder / "config.json").exists():
        return
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(ROOT / "demo/base" / file, folder / file)
    new = 8 if bench.dry else 256
    weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    for attempt in ("first", "second"):  # the second reads from memory
        text = bench.run([bench.bin / "ponte", "generate", "--hf-model-path", folder, "--device", bench.device, "--prompt", "The sea was", "--max-new-tokens", new,
                          "--ignore-eos", "--json"], f"decode-{attempt}")
        if text is None:
            return bench.add(f"decode-8b-{attempt}", unavailable=bench.note)
        log = (bench.out / f"decode-{attempt}.log").read_text()
        rate = float(re.search(r"\(([\d.]+) tokens/s\)", log)[1])
        loaded = re.search(r"weights read in ([\d.]+) s", log)
        bandwidth = of_card(BANDWIDTHS, card())
        bench.add(f"decode-8b-{attempt}", tokens_per_second=rate, weight_bytes=weights, bound_tokens_per_second=bandwidth and bandwidth / weights,
                  share_of_bound=bandwidth and rate * weights / bandwidth, aim=["share_of_bound", 0.8],
                  load_bytes_per_second=weights / float(loaded[1]) if loaded and float(loaded[1]) else None, load_aim=10e9)
    peer(bench, "decode-8b-transformers", "decode", "--folder", folder, "--new", new)
    shutil.rmtree(folder)


def figures(bench, only):
    name = card()
    data = corpus(bench)
    for row_name, row in TRAINING.items():
        if only and row_name not in only:
            continue
        if bench.dry and row["tiny"] is None:
            continue
        training_row(bench, row_name, row, data)
    if not only or "decode-8b" in only:
        decoding_rows(bench)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=ROOT).stdout.strip()
    (bench.out / "figures.json").write_text(json.dumps({"card": name, "commit": commit, "rows": bench.rows}, indent=1))
    print(f"\n{name}, commit {commit[:12]}")
    for row in bench.rows:
        shown = {key: row[key] for key in ("tokens_per_second", "mfu", "share_of_bound", "load_bytes_per_second", "attention", "unavailable") if row.get(key)}
        print(f"  {row['row']:28} " + "  ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in shown.items()))


def tests(bench):
    folder = bench.bin.parent / "tests"
    for name in TESTS:
        program = folder / name
        if not program.exists():
            bench.add(name, unavailable="not built")
            continue
        few = {"GTEST_TOTAL_SHARDS": "40", "GTEST_SHARD_INDEX": "0"} if bench.dry and name == "equality_test" else {}
        text = bench.run([program, "--gtest_brief=1"], name, PONTE_TEST_DEVICE=bench.device, **few)
        bench.add(name, passed=text is not None, note=bench.note)
    return all(row.get("passed") for row in bench.rows)


def build(bench, bundle):
    configure = ["cmake", "--preset", "cuda", f"-DPONTE_PYTHON={sys.executable}", "-DPONTE_BENCH=OFF"]
    if bundle.exists():
        configure.append(f"-DPONTE_BUNDLE={bundle.resolve()}")
    for name, command in (("configure", configure), ("build", ["cmake", "--build", "build/cuda", "-j", os.cpu_count(), "--target", "ponte", "ponte-torch", *TESTS])):
        started = time.monotonic()
        text = bench.run(command, name)
        bench.add(name, seconds=time.monotonic() - started, passed=text is not None, note=bench.note)
        if text is None:
            return False
    return True


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("what", nargs="?", choices=["build", "tests", "figures"])
    arguments.add_argument("--dry", action="store_true")
    arguments.add_argument("--bundle", type=pathlib.Path, default=ROOT / "build/bundle")
    arguments.add_argument("--out", type=pathlib.Path, default=ROOT / "build/gpu_all")
    arguments.add_argument("--only", nargs="*", default=[], help="rows: " + ", ".join([*TRAINING, "decode-8b"]))
    options = arguments.parse_args()
    if not options.what and not options.dry:
        arguments.error("build, tests, figures or --dry")
    bench = Bench(options)
    good = True
    if options.what == "build":
        good = build(bench, options.bundle)
    if options.what == "tests" or (options.dry and not options.what):
        good = tests(bench) and good
    if options.what == "figures" or (options.dry and not options.what):
        figures(bench, options.only)
        if options.dry:
            good = good and not any("unavailable" in row for row in bench.rows if row["row"] != "lora-8b")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
