#!/usr/bin/env python3
"""Start-up of order `permutation`: seconds and memory from the command line to the first sample, over many corpora of holes (no disk is used).

usage: open_corpora.py [--bin build/release/bin] [--files 1000] [--samples-per-file 1021000] [--seq-length 4096] [--rounds 5] [--order permutation]
Goal: 1,000 files and 10^9 samples in less than 2 s and less than 1 GB. Standard library only.
"""
import argparse
import os
import pathlib
import platform
import shutil
import statistics
import struct
import subprocess
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent


def index(sequences, length):
    """The .idx of so many sequences of so many 16-bit ids, one in each document."""
    return b"".join([b"MMIDIDX\0\0", struct.pack("<QBQQ", 1, 8, sequences, sequences + 1), struct.pack("<i", length) * sequences,
                     struct.pack(f"<{sequences}q", *(2 * length * i for i in range(sequences))), struct.pack(f"<{sequences + 1}q", *range(sequences + 1))])


def measure(command):
    """Seconds, CPU seconds, peak resident MB, and what was printed on stderr."""
    start = time.perf_counter()
    process = subprocess.Popen([str(c) for c in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    error = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(error[-2000:])
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, error


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", type=pathlib.Path, default=HERE.parents[1] / "build/release/bin")
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--samples-per-file", type=int, default=1_021_000)
    parser.add_argument("--seq-length", type=int, default=4096)
    parser.add_argument("--documents", type=int, default=4096, help="in each file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--order", default="permutation")
    parser.add_argument("--work", type=pathlib.Path)
    a = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="ponte-bench-", dir=a.work))
    try:
        length = -(-(a.samples_per_file * a.seq_length + 1) // a.documents)
        idx = index(a.documents, length)
        prefixes = []
        for i in range(a.files):
            prefix = folder / f"corpus{i:04d}"
            with open(f"{prefix}.bin", "wb") as file:
                file.truncate(2 * length * a.documents)
            pathlib.Path(f"{prefix}.idx").write_bytes(idx)
            prefixes.append(prefix)
        cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
        print(f"{cpu}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {a.files} files, {a.files * 2 * length * a.documents / 1e12:.1f} TB of ids")
        command = [a.bin / "ponte", "data", "samples", "--order", a.order, "--seq-length", a.seq_length, "--split", "98,1,1", "--count", "1", "--data-path", *prefixes]
        runs = [measure(command) for _ in range(a.rounds)]
        print(next(line for line in runs[0][3].splitlines() if "samples" in line))
        print(f"seconds median {statistics.median(r[0] for r in runs):.2f} min {min(r[0] for r in runs):.2f}, CPU s min {min(r[1] for r in runs):.2f}, "
              f"peak resident {max(r[2] for r in runs):.0f} MB")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
