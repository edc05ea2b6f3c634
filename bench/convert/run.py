#!/usr/bin/env python3
"""Import, convert (to fsdp_dtensor) and export against `cp` + fsync of the same bytes, in one run, turn by turn; and the peak of private memory.

usage: run.py [--bin build/release/bin] [--work FOLDER] [--rounds 5] [--sparse-gb 10]
Private memory is RssAnon + RssShmem of /proc/PID/status, sampled every 5 ms: pages of the mapped input are the kernel's to drop. Standard library only.
"""
import argparse
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent


def private_kib(pid):
    try:
        text = pathlib.Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith(("RssAnon", "RssShmem")))


def timed(command):
    """Seconds of wall time, of CPU time, and peak private KiB."""
    start, before = time.perf_counter(), os.times()
    process = subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    peak = 0
    while process.poll() is None:
        peak = max(peak, private_kib(process.pid))
        time.sleep(0.005)
    wall, after = time.perf_counter() - start, os.times()
    if process.returncode:
        sys.exit(process.stderr.read().decode())
    return wall, after.children_user + after.children_system - before.children_user - before.children_system, peak


def copy_and_sync(source, target):
    """The floor: `cp -r` of the folder, then fsync of every file."""
    start = time.perf_counter()
    subprocess.run(["cp", "-r", source, target], check=True)
    for file in pathlib.Path(target).iterdir():
        fd = os.open(file, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
    return time.perf_counter() - start


def read_through(folder):
    for file in pathlib.Path(folder).rglob("*"):
        if file.is_file():
            subprocess.run(["cat", file], stdout=subprocess.DEVNULL, check=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", type=pathlib.Path, default=HERE.parents[1] / "build/release/bin")
    parser.add_argument("--work", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sparse-gb", type=float, default=10.0)
    a = parser.parse_args()
    ponte = a.bin / "ponte"
    work = pathlib.Path(tempfile.mkdtemp(prefix="ponte-bench-", dir=a.work))
    try:
        model = work / "model"
        subprocess.run([sys.executable, HERE / "make_model.py", model], check=True)
        size = sum(f.stat().st_size for f in model.iterdir())
        cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), platform.machine())
        print(f"{cpu}, {os.cpu_count()} cores, {os.uname().sysname} {os.uname().release}; {size / 1e9:.2f} GB, {a.rounds} rounds in turn, input in page cache")
        rows = {"cp + fsync": [], "import": [], "convert": [], "export": []}
        for round_number in range(a.rounds + 1):  # the first warms up
            results = {}
            for name in rows:
                # Each frees its own last output, as large as its next: a virtual machine's pages are dear to touch for the first time.
                shutil.rmtree(work / {"cp + fsync": "copy", "import": "mcore", "convert": "fsdp", "export": "hf"}[name], ignore_errors=True)
                os.sync()
                if name == "cp + fsync":
                    read_through(model)
                    results[name] = (copy_and_sync(model, work / "copy"), 0, 0)
                elif name == "import":
                    read_through(model)
                    results[name] = timed([ponte, "import", "--hf-model", model, "--megatron-path", work / "mcore"])
                elif name == "convert":
                    read_through(work / "mcore")
                    results[name] = timed([ponte, "convert", "--megatron-path", work / "mcore", "--save", work / "fsdp", "--ckpt-format", "fsdp_dtensor"])
                else:
                    read_through(work / "mcore")
                    results[name] = timed([ponte, "export", "--megatron-path", work / "mcore", "--hf-path", work / "hf"])
            if round_number:
                for name in rows:
                    rows[name].append(results[name])
        floor = statistics.median(r[0] for r in rows["cp + fsync"])
        for name, results in rows.items():
            walls = sorted(r[0] for r in results)
            ratios = statistics.median(r[0] / c[0] for r, c in zip(results, rows["cp + fsync"]))
            print(f"{name:12} median {statistics.median(walls):6.2f} s  min {walls[0]:6.2f} s  CPU {statistics.median(r[1] for r in results):5.2f} s  "
                  f"ratio {statistics.median(walls) / floor:5.2f} (median of paired {ratios:.2f})  private {max(r[2] for r in results) / 1024:6.1f} MB")
        for folder in ("copy", "mcore", "fsdp", "hf", "model"):
            shutil.rmtree(work / folder, ignore_errors=True)
        if a.sparse_gb > 0:
            layers = max(1, round(a.sparse_gb * 1e9 / (2 * (4 * 4096 * 4096 + 3 * 4096 * 12288))))
            subprocess.run([sys.executable, HERE / "make_model.py", model, "--sparse", "--layers", str(layers), "--hidden", "4096", "--ffn", "12288",
                            "--heads", "32", "--groups", "32"], check=True)
            imported = timed([ponte, "import", "--hf-model", model, "--megatron-path", work / "mcore"])
            exported = timed([ponte, "export", "--megatron-path", work / "mcore", "--hf-path", work / "hf"])
            for name, (wall, cpu_seconds, peak) in (("import", imported), ("export", exported)):
                print(f"{a.sparse_gb:.0f} GB sparse {name}: {wall:.1f} s, private {peak / 1024:.1f} MB")
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
