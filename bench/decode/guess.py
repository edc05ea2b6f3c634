"""What guessing with a prediction layer gains: `ponte generate` with and without --mtp in turns, greedy, batch 1, on a model that has learned its text.

usage: bench/decode/guess.py [--shape dense|experts ...] [--dtype bfloat16|float32] [--new 400] [--rounds 5] [--steps 120] [--threads N] [--keep FOLDER]
Run with the interpreter of .venv-test after a release build. Ponte trains a model of Qwen3-Next's pattern (three delta nets, one gated attention; one prediction
layer) on a few pages of demo/book.jsonl.gz, exports it, and goes on from prompts out of those pages. Checked: both give the same tokens. Printed: the share of
guesses kept, tokens/s of both, their ratio, and the bound that reading the weights sets to it: (1 + share kept) / ((a pair's bytes + a guess's) / one token's), where a
pair reads the experts that either of its tokens chose, counted on the text with transformers. --keep: where models stay between runs.
"""
import argparse
import gzip
import json
import os
import pathlib
import re
import resource
import statistics
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
PONTE = pathlib.Path(os.environ.get("PONTE_BIN", ROOT / "build/release/bin")) / "ponte"
TOKENS = 2048  # of text to learn
LAYERS, HIDDEN, VOCABULARY = 8, 512, 8192
COMMON = dict(num_layers=LAYERS, layer_types="[" + ", ".join(["linear_attention"] * 3 + ["full_attention"]) + ", " +
              ", ".join(["linear_attention"] * 3 + ["full_attention"]) + "]", hidden_size=HIDDEN, num_attention_heads=8, num_query_groups=4, kv_channels=64,
              vocab_size=VOCABULARY, share_embeddings_and_output_weights="false", linear_num_key_heads=8, linear_num_value_heads=16, linear_key_head_dim=64,
              linear_value_head_dim=64, mtp_num_layers=1, seq_length=256, max_position_embeddings=4096, tensor_model_parallel_size=1, sequence_parallel="false",
              expert_model_parallel_size=1)
SHAPES = {
    "dense": dict(COMMON, model_type="qwen3_5_text", hf_architecture="Qwen3_5ForCausalLM", ffn_hidden_size=1536, num_moe_experts=0, moe_shared_expert_intermediate_size="null",
                  moe_ffn_hidden_size="null"),
    "experts": dict(COMMON, num_moe_experts=16, moe_router_topk=4, moe_ffn_hidden_size=256, moe_shared_expert_intermediate_size=256),
}


def ponte(*arguments):
    result = subprocess.run([str(PONTE), *map(str, arguments)], capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(f"ponte {' '.join(map(str, arguments))}\n{result.stdout}{result.stderr}")
    return result


def pages(tokenizer):
    with gzip.open(ROOT / "demo/book.jsonl.gz", "rt") as lines:
        text = "\n".join(json.loads(line)["text"] for line in lines)
    return tokenizer.decode(tokenizer(text).input_ids[:TOKENS])


def train(folder, shape, steps, text):
    """The folder of the exported model."""
    (folder / "text.jsonl").write_text((json.dumps({"text": text}) + "\n") * (1 + steps * 512 // TOKENS))
    ponte("preprocess", "--input", folder / "text.jsonl", "--output-prefix", folder / "text", "--tokenizer-model", ROOT / "demo/base", "--append-eod")
    settings = [f"model.{key}={value}" for key, value in SHAPES[shape].items()]
    settings += [f"train.train_iters={steps}", "train.global_batch_size=2", "train.micro_batch_size=2", "optimizer.lr=1e-3", "optimizer.min_lr=1e-5",
                 f"scheduler.lr_warmup_iters={min(20, steps // 2)}", "validation.eval_interval=0", "dataset.split='100,0,0'", f"tokenizer.tokenizer_model={ROOT / 'demo/base'}",
                 f"checkpoint.save={folder / 'run'}", f"dataset.data_path=[{folder / 'text_text_document'}]", f"logger.jsonl={folder / 'log.jsonl'}"]
    ponte("train", "--recipe", "qwen3_next_3b_fineweb", *settings)
    ponte("export", "--megatron-path", folder / "run", "--hf-path", folder / "hf")
    last = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])
    print(f"  trained {steps} steps: lm_loss {last['lm_loss']:.3f}, mtp_1 loss {last['mtp_1 loss']:.3f}", flush=True)
    return folder / "hf"


def generate(folder, prompt, options, *more):
    """Tokens per second, processor seconds of the whole command, the tokens, guesses (kept, made)."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = ponte("generate", "--hf-model-path", folder, "--prompt", prompt, "--max-new-tokens", options.new, "--ignore-eos", "--json", "--torch-dtype",
                   options.dtype, "--threads", options.threads, *more)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    rate = float(re.search(r"\(([0-9.]+) tokens/s\)", result.stderr)[1])
    kept = re.search(r"(\d+) of (\d+) guessed tokens kept", result.stderr)
    return rate, after.ru_utime - before.ru_utime, json.loads(result.stdout)["tokens"], kept and (int(kept[1]), int(kept[2]))


def bytes_read(folder, ids, width, share):
    """Weights read for one token, for a pair, and for a guess, which reads two tokens where `share` of them were kept."""
    import safetensors
    import torch
    import transformers
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    sizes, experts = {}, {}
    for file in folder.glob("*.safetensors"):
        with safetensors.safe_open(file, "pt") as tensors:
            for name in tensors.keys():
                count = tensors.get_slice(name).get_shape()
                (experts if ".experts." in name else sizes)[name] = int(torch.tensor(count).prod()) * width
    total = lambda sizes, prediction: sum(n for name, n in sizes.items() if name.startswith("mtp.") == prediction and "embed_tokens" not in name)  # noqa: E731
    head = sizes["lm_head.weight"]
    one, guess = total(sizes, False), total(sizes, True) + head
    if not experts:
        return one, one, guess
    config = transformers.AutoConfig.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor([ids]), output_router_logits=True).router_logits
    E, K = config.num_experts, config.num_experts_per_tok
    both = 0.0  # experts of a pair in a layer
    for layer in logits:
        chosen = layer.view(-1, E).topk(K, -1).indices.tolist()
        both += statistics.mean(len(set(a) | set(b)) for a, b in zip(chosen, chosen[1:])) / len(logits)
    each = total(experts, False) / E  # of all layers, for one expert a layer
    print(f"  a token chooses {K} of {E} experts, a pair {both:.2f}")
    return one + K * each, one + both * each, guess + (K + share * (both - K)) * total(experts, True) / E


def measure(shape, options, folder):
    import transformers
    tokenizer = transformers.AutoTokenizer.from_pretrained(ROOT / "demo/base")
    text = pages(tokenizer)
    ids = tokenizer(text).input_ids
    print(f"{shape} {options.dtype}: {options.new} new tokens, {options.threads} threads, {options.rounds} rounds in turns", flush=True)
    model = folder / "hf" if (folder / "hf").exists() else train(folder, shape, options.steps, text)
    plain, guessing, plain_cpu, guessing_cpu, ratios, made, kept, same = [], [], [], [], [], 0, 0, True
    for i in range(options.rounds):
        start = (i + 1) * TOKENS // (options.rounds + 2)
        prompt = tokenizer.decode(ids[start:start + 16])
        loading = generate(model, prompt, argparse.Namespace(**{**vars(options), "new": 1}))[1]
        rate, cpu, tokens, _ = generate(model, prompt, options)
        mtp_rate, mtp_cpu, mtp_tokens, counted = generate(model, prompt, options, "--mtp")
        plain.append(rate), guessing.append(mtp_rate), plain_cpu.append(cpu - loading), guessing_cpu.append(mtp_cpu - loading), ratios.append(mtp_rate / rate)
        kept, made, same = kept + counted[0], made + counted[1], same and tokens == mtp_tokens
    share = kept / made
    one, pair, guess = bytes_read(model, ids[:1024], 2 if options.dtype == "bfloat16" else 4, share)
    bound = (1 + share) / ((pair + guess) / one)
    print(f"  plain {statistics.median(plain):.1f} tokens/s, --mtp {statistics.median(guessing):.1f}; ratio of medians {statistics.median(guessing) / statistics.median(plain):.2f}, "
          f"each round {' '.join(f'{r:.2f}' for r in ratios)}; by processor time, loading left out, {sum(plain_cpu) / sum(guessing_cpu):.2f}")
    print(f"  {kept} of {made} guesses kept ({100 * share:.1f} %); same tokens: {'yes' if same else 'NO'}")
    print(f"  MB read for a token {one / 1e6:.1f}, a pair {pair / 1e6:.1f}, a guess {guess / 1e6:.1f}: at most {bound:.2f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--new", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--keep", type=pathlib.Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        for shape in options.shape:
            folder = (options.keep or pathlib.Path(name)) / shape
            folder.mkdir(parents=True, exist_ok=True)
            measure(shape, options, folder)


if __name__ == "__main__":
    main()
