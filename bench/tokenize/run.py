"""Encoding, the first time (cold) and again (warm): Ponte beside tokenizers, tiktoken, fastokens and gigatoken, whichever can be imported.

Usage: run.py --tokenizer DIR --corpus FILE.jsonl... [--megabytes 100] [--threads 1 2] [--runs 3] [--python PYTHON] [--bench build/release/bin/ponte-bench-tokenize]
The corpus has one {"text": ...} a line; mixed text (prose, code, manuals, several languages) is the hard case. Every engine runs in processes of its
own, one after the other: the best first pass and the best later pass count (tokenizers and tiktoken, which take minutes, run once). MB per CPU
second is what to look at on a machine that is doing other things.
"""
import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import time

SLOW = ("tokenizers", "tiktoken")
ROOT = pathlib.Path(__file__).resolve().parents[2]


def tiktoken_encoder(path):
    import tiktoken

    description = json.load(open(path))
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    byte_of = {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}
    ranks = {bytes(byte_of[c] for c in token): i for token, i in description["model"]["vocab"].items()}
    pattern = description["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
    return tiktoken.Encoding("own", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})


def encode_function(engine, path, threads):
    """batch of texts -> number of ids"""
    if engine == "tokenizers":
        from tokenizers import Tokenizer

        t = Tokenizer.from_file(path)
        return lambda batch: sum(len(e.ids) for e in t.encode_batch_fast(batch, add_special_tokens=False))
    if engine == "tiktoken":
        t = tiktoken_encoder(path)
        return lambda batch: sum(map(len, t.encode_ordinary_batch(batch, num_threads=threads)))
    if engine == "fastokens":
        import fastokens

        t = fastokens.Tokenizer.from_file(path)
        return lambda batch: sum(len(getattr(e, "ids", e)) for e in t.encode_batch(batch))
    if engine == "gigatoken":
        import awkward
        import gigatoken

        t = gigatoken.Tokenizer(os.path.dirname(path))
        return lambda batch: int(awkward.count(t.encode_batch(batch), axis=None))
    raise SystemExit(f"unknown engine {engine}")


def texts_of(corpus, megabytes):
    texts, size = [], 0
    for line in open(corpus, encoding="utf-8"):
        texts.append(json.loads(line)["text"])
        size += len(texts[-1].encode())
        if size >= megabytes * 1e6:
            break
    return texts, size


def one_engine(options):
    texts, size = texts_of(options.corpus, options.megabytes)
    encode = encode_function(options.engine, options.tokenizer + "/tokenizer.json", options.threads[0])
    batches = [texts[i : i + 1000] for i in range(0, len(texts), 1000)]
    for _ in range(1 if options.engine in SLOW else 3):
        wall, cpu = time.perf_counter(), time.process_time()
        ids = sum(encode(batch) for batch in batches)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(f"RESULT {size / 1e6 / wall:.1f} {size / 1e6 / cpu:.1f} {ids}")


def measure(command, threads, pattern, runs):
    """[cold, warm], each (MB/s, MB per CPU second, ids) of the best pass of a few fresh processes, and the floor; None when the engine is not there."""
    cold, warm, floor = None, None, ""
    for _ in range(runs):
        env = {**os.environ, "RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true" if threads > 1 else "false"}
        process = subprocess.run(command, capture_output=True, text=True, env=env)
        found = [(float(a), float(b), int(c)) for a, b, c in re.findall(pattern, process.stdout)]
        if process.returncode or not found:
            if "ModuleNotFoundError" not in process.stderr:
                print(process.stderr[-500:], file=sys.stderr)
            return None, ""
        cold = max(cold or found[0], found[0], key=lambda r: r[1])
        for rates in found[1:]:
            warm = max(warm or rates, rates, key=lambda r: r[1])
        floor = max(floor, (re.search(r"reading the memory: (\d+) MB/s", process.stdout) or ["", ""])[1], key=lambda f: int(f or 0))
    return [cold, warm], floor


def table(corpus, threads, options):
    common = ["--tokenizer", options.tokenizer, "--corpus", corpus, "--megabytes", str(options.megabytes)]
    native = [options.bench, options.tokenizer, corpus, "--megabytes", str(options.megabytes), "--threads", str(threads), "--passes", "4"]
    rows = {"ponte": measure(native, threads, r"pass \d.*?([\d.]+) MB/s \(([\d.]+) MB per CPU second\), (\d+) ids", options.runs)}
    floor = rows["ponte"][1]
    for engine in options.engines:
        rows[engine] = measure([options.python, __file__, *common, "--engine", engine, "--threads", str(threads)], threads, r"RESULT ([\d.]+) ([\d.]+) (\d+)",
                               1 if engine in SLOW else options.runs)
    ours = rows["ponte"][0]
    print(f"\n{os.path.basename(corpus)}, {threads} thread(s); one thread reads the same memory at {floor} MB/s\n")
    print("| engine | cold MB/s | cold MB per CPU s | of Ponte's | warm MB/s | warm MB per CPU s | of Ponte's | ids |")
    print("|---|---|---|---|---|---|---|---|")
    for name, (rates, _) in rows.items():
        if not rates:
            print(f"| {name} | not installed | | | | | | |")
            continue
        cells = []
        for own, theirs in zip(ours, rates):
            cells += [f"{theirs[0]:.1f}", f"{theirs[1]:.1f}", f"{theirs[1] / own[1]:.2f}"] if theirs else ["", "", ""]
        print(f"| {name} | " + " | ".join(cells) + f" | {rates[0][2]:,} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--corpus", required=True, nargs="+")
    parser.add_argument("--megabytes", type=float, default=100)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--engines", nargs="+", default=["tokenizers", "tiktoken", "fastokens", "gigatoken"])
    parser.add_argument("--engine", help=argparse.SUPPRESS)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--bench", default=str(ROOT / "build" / "release" / "bin" / "ponte-bench-tokenize"))
    options = parser.parse_args()
    if options.engine:
        options.corpus = options.corpus[0]
        return one_engine(options)
    for corpus in options.corpus:
        for threads in options.threads:
            table(corpus, threads, options)


if __name__ == "__main__":
    main()
