#!/usr/bin/env python3
"""Training over processes of one machine: communication of weak scaling, checkpoints beside `cp`, resharding, and the time to the first step.

usage: run.py [--build build/release] [--work FOLDER] [--steps 5] [--only scaling|checkpoints|start]
Cores are fewer than ranks on small machines, so scaling is told in bytes beside the plan's closed form and in time inside collectives (waiting included), not
in speed-up. Standard library only.
"""
import argparse
import json
import os
import pathlib
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time

LAYOUTS = [("one rank", 1, []), ("data 2", 2, []), ("data 4", 4, []), ("data 4, distributed optimizer", 4, ["zero=1"]), ("tensor 2", 2, ["tp=2"]), ("tensor 4", 4, ["tp=4"]),
           ("tensor 2 with sequence parallelism", 2, ["sp=2"]), ("pipeline 2", 2, ["pp=2"]), ("pipeline 4", 4, ["pp=4"]), ("context 2", 2, ["cp=2"]),
           ("context 4", 4, ["cp=4"]), ("expert 2", 2, ["ep=2"]), ("expert 4", 4, ["ep=4"])]
MODEL = ["model.num_layers=6", "model.hidden_size=512", "model.ffn_hidden_size=1536", "model.num_attention_heads=8", "model.num_query_groups=4",
         "model.kv_channels=64", "model.vocab_size=32000", "model.seq_length=128", "train.micro_batch_size=1", "train.global_batch_size=4", "train.train_iters=3",
         "validation.eval_interval=0", "mixed_precision=bf16_mixed", "checkpoint.save=null", "checkpoint.load=null",
         "logger.tensorboard_dir=null"]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def scaling(build, steps):
    print("| ranks | step, ms | in collectives, ms | MB handed over | plan | ratio |\n|---|---|---|---|---|---|")
    for name, ranks, axes in LAYOUTS:
        port = str(free_port())
        processes = [subprocess.Popen([str(build / "bench/parallel_bench"), str(steps), *axes], stdout=subprocess.PIPE, text=True,
                                      env={**os.environ, "RANK": str(r), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(r), "LOCAL_WORLD_SIZE": str(ranks),
                                           "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}) for r in range(ranks)]
        outputs = [p.communicate()[0] for p in processes]
        if any(p.returncode for p in processes):
            sys.exit(f"{name}: a rank failed")
        r = json.loads(outputs[0])
        ratio = f"{r['bytes'] / r['planned_bytes']:.4f}" if r["planned_bytes"] else "-"
        print(f"| {name} | {r['step_seconds'] * 1e3:.0f} | {r['communication_seconds'] * 1e3:.1f} | {r['bytes'] / 1e6:.2f} | {r['planned_bytes'] / 1e6:.2f} | {ratio} |",
              flush=True)


def ponte(build, *arguments):
    """What it said."""
    done = subprocess.run([str(build / "bin/ponte"), "train", "--recipe", "qwen3_600m_pretrain_config", *MODEL, *map(str, arguments)], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        sys.exit(done.stdout)
    return done.stdout


def copy_and_sync(source, target):
    start = time.perf_counter()
    subprocess.run(["cp", "-r", source, target], check=True)
    for file in pathlib.Path(target).rglob("*"):
        if file.is_file():
            fd = os.open(file, os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)
    return time.perf_counter() - start


def layout_settings(ranks, *settings):
    return (["--nproc-per-node", ranks] if ranks > 1 else []) + list(settings)


def seconds_in(text, what):
    """What the program itself says a save (the flush included) or a load took, all ranks together."""
    return float(re.search(rf"^{what} .* in ([\d.]+) s", text, re.M)[1])


def load_without_hashes(build, saved, layout):
    """As another program's checkpoint is read: what checking every chunk costs is the difference."""
    manifest = next(saved.glob("iter_*/ponte/manifest.json"))
    aside = manifest.rename(manifest.with_suffix(".aside"))
    try:
        return seconds_in(ponte(build, *layout, "train.exit_interval=2", f"checkpoint.load={saved}"), "resuming")
    finally:
        aside.rename(manifest)


def checkpoints(build, work):
    """Saves and loads as the program times them. Steps are skipped, so that files are all there is."""
    skip = "train.iterations_to_skip=[1,2,3]"
    tensor, data = ["model.tensor_model_parallel_size=2"], ["ddp.use_distributed_optimizer=true"]
    print("\n| | seconds | beside cp + fsync |\n|---|---|---|")
    for ranks, name, settings in ((1, "one rank", []), (2, "tensor 2", tensor), (2, "data 2, distributed optimizer", data)):
        layout = layout_settings(ranks, *settings, skip)
        saved = work / name.replace(" ", "_").replace(",", "")
        save = seconds_in(ponte(build, *layout, "train.exit_interval=1", f"checkpoint.save={saved}"), "saved")
        copy = copy_and_sync(saved, work / "copy")
        shutil.rmtree(work / "copy")
        load = seconds_in(ponte(build, *layout, "train.exit_interval=2", f"checkpoint.load={saved}"), "resuming")
        unchecked = load_without_hashes(build, saved, layout)
        size = sum(f.stat().st_size for f in saved.rglob("*") if f.is_file())
        print(f"| save {size / 1e6:.0f} MB, {name} | {save:.2f} | {save / copy:.2f} |\n| load the same | {load:.2f} | {load / copy:.2f} |\n"
              f"| load the same, no hashes to compare | {unchecked:.2f} | {unchecked / copy:.2f} |", flush=True)
    source, other = work / "tensor_2", layout_settings(2, "model.pipeline_model_parallel_size=2", skip)
    text = ponte(build, *other, "train.exit_interval=2", f"checkpoint.load={source}", f"checkpoint.save={work / 'resharded'}")
    copy = copy_and_sync(source, work / "copy")
    for what, word in (("load", "resuming"), ("save", "saved")):
        print(f"| reshard weights and optimizer, tensor 2 to pipeline 2: {what} | {seconds_in(text, word):.2f} | {seconds_in(text, word) / copy:.2f} |")


def start(build, work):
    print("\n| from launch to the end of the first step | seconds |\n|---|---|")
    for ranks in (1, 2, 4):
        log = work / f"start{ranks}.jsonl"
        begin = time.time()
        ponte(build, *layout_settings(ranks), f"logger.jsonl={log}", "train.exit_interval=1")
        print(f"| {ranks} rank{'s' if ranks > 1 else ''} | {log.stat().st_mtime - begin:.2f} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, default=pathlib.Path("build/release"))
    parser.add_argument("--work", type=pathlib.Path)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--only", choices=["scaling", "checkpoints", "start"])
    options = parser.parse_args()
    work = pathlib.Path(tempfile.mkdtemp(dir=options.work))
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}\n")
    try:
        if options.only in (None, "scaling"):
            scaling(options.build, options.steps)
        if options.only in (None, "checkpoints"):
            checkpoints(options.build, work)
        if options.only in (None, "start"):
            start(options.build, work)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
