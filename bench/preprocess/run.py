#!/usr/bin/env python3
"""Preprocessing speed, end to end: `ponte preprocess` beside Megatron-LM's tools/preprocess_data.py on the same JSON lines, in turn, in one run.

    bench/preprocess/run.py [--input FILE.jsonl] [--tokenizer DIR] [--workers 1 2] [--megatron-lm CHECKOUT --python PYTHON] [--result FILE.md]

Without --input: the demo's prose, repeated to --megabytes. Megatron-LM is left out when no checkout is given; PYTHON needs its requirements. The
outputs are compared byte for byte. The floor is reading the input once (`cat`).
"""
import argparse
import gzip
import hashlib
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


def measure(command, env=None):
    """Wall and processor seconds, and the largest resident size of the process and its children in MB."""
    start = time.perf_counter()
    process = subprocess.Popen([str(c) for c in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=env)
    error = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    if status:
        sys.exit(f"{' '.join(map(str, command))}\n{error.decode()[-2000:]}")
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def digest(prefix):
    return [hashlib.sha256(pathlib.Path(f"{prefix}_text_document{suffix}").read_bytes()).hexdigest() for suffix in (".bin", ".idx")]


def machine():
    name = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    return f"{os.cpu_count()} cores of {name}; load {os.getloadavg()[0]:.1f} at the start"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input")
    parser.add_argument("--tokenizer", default=str(ROOT / "demo/base"))
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--megatron-lm")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--bin", default=os.environ.get("PONTE_BIN", str(ROOT / "build/release/bin")))
    parser.add_argument("--result")
    args = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="ponte-bench-"))
    source = pathlib.Path(args.input) if args.input else folder / "prose.jsonl"
    if not args.input:
        text = gzip.decompress((ROOT / "demo/prose.jsonl.gz").read_bytes())
        with open(source, "wb") as out:
            for _ in range(max(1, args.megabytes * 10**6 // len(text))):
                out.write(text)
    megabytes = source.stat().st_size / 1e6
    rows = [("cat (floor)", 0, *min(measure(["cat", source]) for _ in range(args.repeat)))]
    for workers in args.workers:
        command = [f"{args.bin}/ponte", "preprocess", "--input", source, "--output-prefix", folder / "ponte", "--tokenizer-model", args.tokenizer,
                   "--append-eod", "--workers", workers, "--overwrite"]
        rows.append(("ponte preprocess", workers, *min(measure(command) for _ in range(args.repeat))))
    if args.megatron_lm:
        for workers in args.workers:
            command = [args.python, f"{args.megatron_lm}/tools/preprocess_data.py", "--input", source, "--output-prefix", folder / "megatron",
                       "--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", args.tokenizer, "--append-eod", "--workers", workers]
            rows.append(("Megatron-LM preprocess_data.py", workers, *measure(command, {**os.environ, "PYTHONPATH": args.megatron_lm})))
        if digest(folder / "ponte") != digest(folder / "megatron"):
            sys.exit("the outputs differ")
    lines = [f"{megabytes:.1f} MB of JSON lines, tokenizer {pathlib.Path(args.tokenizer).name}; {machine()}", "",
             "| tool | workers | seconds | MB/s | processor s | MB/s per processor s | peak MB |", "|---|---|---|---|---|---|---|"]
    for name, workers, wall, cpu, peak in rows:
        lines.append(f"| {name} | {workers or ''} | {wall:.2f} | {megabytes / wall:.1f} | {cpu:.2f} | {megabytes / max(cpu, 1e-3):.1f} | {peak:.0f} |")
    if args.megatron_lm:
        lines += ["", "Outputs equal byte for byte."]
    print("\n".join(lines))
    if args.result:
        pathlib.Path(args.result).write_text(f"# Preprocessing\n\n`bench/preprocess/run.py {' '.join('...' if '/' in a else a for a in sys.argv[1:])}`\n\n" + "\n".join(lines) + "\n")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
