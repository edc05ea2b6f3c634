"""Greedy decoding, batch 1, with a KV cache: `ponte generate` beside transformers (eager) in turns on the same weights and prompt.

usage: bench/decode/decode.py [--dtype float32|bfloat16] [--new 128] [--rounds 5] [--shape small|0.6b] [--threads N] [--results]
Run with the interpreter of .venv-test after a release build. Prints tokens/s of both (median and best round), the ratio of medians, and the
bandwidth bound: one reading of the weights per token at the measured memory rate. --results files the lines in bench/results/.
"""
import argparse
import gzip
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PONTE = pathlib.Path(os.environ.get("PONTE_BIN", ROOT / "build/release/bin")) / "ponte"
SHAPES = {
    "small": dict(vocab_size=32000, hidden_size=512, num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=4, head_dim=64, intermediate_size=1536,
                  tie_word_embeddings=False),
    "0.6b": dict(vocab_size=151936, hidden_size=1024, num_hidden_layers=28, num_attention_heads=16, num_key_value_heads=8, head_dim=128,
                 intermediate_size=3072, tie_word_embeddings=True),
}


def make_model(shape, dtype, folder):
    import torch
    import transformers
    torch.manual_seed(0)
    config = transformers.Qwen3Config(**SHAPES[shape], max_position_embeddings=4096, bos_token_id=None, eos_token_id=8189, pad_token_id=8189)
    model = transformers.Qwen3ForCausalLM(config).to(getattr(torch, dtype)).eval()
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((ROOT / "demo/base" / name).read_bytes())
    return model, sum(p.numel() * p.element_size() for p in model.parameters())


def prompt_of(tokenizer, count):
    with gzip.open(ROOT / "demo/prose.jsonl.gz", "rt") as lines:
        words = json.loads(next(lines))["text"].split(" ")
    while len(tokenizer(" ".join(words)).input_ids) > count:
        words.pop()
    return " ".join(words)


def run_transformers(model, ids, new):
    import torch
    start = time.perf_counter()
    with torch.no_grad():
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, min_new_tokens=new, do_sample=False, use_cache=True, pad_token_id=0,
                             eos_token_id=None)
    return new / (time.perf_counter() - start), out[0, ids.shape[1]:].tolist()


def run_ponte(folder, prompt, new, threads):
    command = [str(PONTE), "generate", "--hf-model-path", str(folder), "--prompt", prompt, "--max-new-tokens", str(new), "--ignore-eos", "--json",
               "--threads", str(threads)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(re.search(r"\(([0-9.]+) tokens/s\)", result.stderr).group(1)), json.loads(result.stdout)["tokens"]


def read_rate():
    """Bytes per second of reading memory, all threads."""
    import torch
    x = torch.ones(64 * 1024 * 1024)
    times = []
    for _ in range(8):
        start = time.perf_counter()
        x.sum()
        times.append(time.perf_counter() - start)
    return x.numel() * 4 / min(times)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    arguments.add_argument("--new", type=int, default=128)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--shape", default="small", choices=SHAPES)
    arguments.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments.add_argument("--results", action="store_true")
    options = arguments.parse_args()
    import torch
    import transformers
    torch.set_num_threads(options.threads)
    rates = {"transformers": [], "ponte": []}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        model, weight_bytes = make_model(options.shape, options.dtype, folder)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        prompt = prompt_of(tokenizer, 128)
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        run_transformers(model, ids, 8)
        for _ in range(options.rounds):
            peer, peer_tokens = run_transformers(model, ids, options.new)
            ours, our_tokens = run_ponte(folder, prompt, options.new, options.threads)
            rates["transformers"].append(peer)
            rates["ponte"].append(ours)
    same = sum(1 for a, b in zip(peer_tokens, our_tokens) if a == b)
    bound = read_rate() / weight_bytes
    ratio = statistics.median(rates["ponte"]) / statistics.median(rates["transformers"])
    lines = [f"decode {options.shape} {options.dtype}: {ids.shape[1]} prompt + {options.new} new tokens, {options.threads} threads, {options.rounds} rounds in turns"]
    lines += [f"  {who:12} median {statistics.median(r):7.1f} tokens/s   best {max(r):7.1f}" for who, r in rates.items()]
    lines += [f"  ratio {ratio:.2f}   bandwidth bound {bound:.0f} tokens/s   same tokens {same} of {options.new}"]
    print("\n".join(lines))
    if options.results:
        cpu = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text()).group(1)
        with open(ROOT / "bench/results/decode.txt", "a") as file:
            file.write(f"{time.strftime('%Y-%m-%d')}  {cpu}, {os.cpu_count()} cores, torch {torch.__version__}, transformers {transformers.__version__}, "
                       f"{platform.system()}; command: bench/decode/decode.py {' '.join(a for a in sys.argv[1:] if a != '--results')}\n" + "\n".join(lines) + "\n\n")


if __name__ == "__main__":
    main()
