"""Training step and greedy decoding beside transformers, in turn and in one run: prints seconds, processor seconds and ratios.

    python bench/train_step/compare.py [--bin build/release/bench] [--model qwen3|qwen3_moe|qwen3_next] [--types fp32 bf16] [--steps 5] [--compile [--compile-limit S]] [--decode]

The model: Qwen3, hidden 512, 8 layers, 8 heads, 4 groups, ffn 1536, vocabulary 32000 (57.9 M parameters); batch 4 x 512; fused AdamW and clipping
in both. qwen3_moe: 32 experts of 384 in place of the ffn, four for each token (190 M), with the balancing loss. qwen3_next: those experts and a shared one, three layers of
four with linear attention of 8 key and 16 value heads of 64, gated attention in the rest (204 M). Decoding: 128 prompt tokens, 128 new, batch 1, key/value cache. --compile adds torch.compile (minutes of
warm-up), for decoding with a cache of fixed size.
"""
import argparse
import multiprocessing
import pathlib
import re
import statistics
import subprocess
import time

import torch
import transformers

SHAPE = dict(vocab_size=32000, hidden_size=512, num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=4, head_dim=64, intermediate_size=1536,
             max_position_embeddings=4096, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, pad_token_id=0)


EXPERTS = dict(num_experts=32, num_experts_per_tok=4, moe_intermediate_size=384, norm_topk_prob=True, output_router_logits=True)


LINEAR = dict(shared_expert_intermediate_size=384, linear_num_key_heads=8, linear_num_value_heads=16, linear_key_head_dim=64, linear_value_head_dim=64,
              full_attention_interval=4, partial_rotary_factor=0.25)
PEERS = {"qwen3": ("Qwen3", {}), "qwen3_moe": ("Qwen3Moe", EXPERTS), "qwen3_next": ("Qwen3Next", {**EXPERTS, **LINEAR})}


def peer(kind, name):
    torch.manual_seed(0)
    family, more = PEERS[name]
    model = getattr(transformers, family + "ForCausalLM")(getattr(transformers, family + "Config")(**SHAPE, **more))
    return model.to({"fp32": torch.float32, "bf16": torch.bfloat16}[kind])


def timed(body, repeats, warm_up):
    walls, processor = [], 0.0
    for i in range(repeats + warm_up):
        wall, cpu = time.perf_counter(), time.process_time()
        body()
        if i >= warm_up:
            walls.append(time.perf_counter() - wall)
            processor += time.process_time() - cpu
    return statistics.median(walls), processor / repeats


def peer_step(kind, name, steps, compiled):
    model = peer(kind, name).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, fused=True)
    tokens = torch.randint(3, 32000, (4, 512))
    run = torch.compile(model) if compiled else model

    def step():
        run(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return timed(step, steps, 2)


def peer_decode(kind, name, repeats, compiled):
    model, prompt = peer(kind, name).eval(), torch.randint(3, 32000, (1, 128))
    model.config.output_router_logits = False  # the balancing loss is training's
    more = {}
    if compiled:  # with a cache of fixed size, so that one compiled step serves every position
        model.forward = torch.compile(model.forward)
        more["cache_implementation"] = "static"

    def generate():
        with torch.no_grad():
            model.generate(prompt, max_new_tokens=128, min_new_tokens=128, do_sample=False, use_cache=True, pad_token_id=0, **more)

    return timed(generate, repeats, 2 if compiled else 1)


def into(queue, work, *arguments):
    queue.put(work(*arguments, True))


def compiled(work, limit_s, *arguments):
    """`work` compiled, in a process of its own; None when it has not finished after limit_s seconds."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=into, args=(queue, work, *arguments))
    process.start()
    process.join(limit_s)
    if process.is_alive():
        process.kill()
        return None
    if process.exitcode:
        raise SystemExit(f"{work.__name__} compiled failed with exit code {process.exitcode}")
    return queue.get()


def ours(binary, kind, name, repeats, what):
    text = subprocess.run([binary, kind, str(repeats), what, name], capture_output=True, text=True, check=True).stdout
    return float(re.search(r"^(?:step|prompt).*median ([\d.]+)", text, re.M)[1]), float(re.search(r"processor seconds[^:]*: ([\d.]+)", text)[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default="build/release/bench", type=pathlib.Path)
    parser.add_argument("--model", default="qwen3", choices=list(PEERS))
    parser.add_argument("--types", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--steps", default=5, type=int)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--compile-limit", default=600, type=float, help="seconds torch.compile has for warm-up and steps")
    parser.add_argument("--decode", action="store_true")
    options = parser.parse_args()
    binary = str(options.bin / "train_step_bench")
    works = [("training step", "train", peer_step, 2048)] + [("decoding", "decode", peer_decode, 128)] * options.decode
    for kind in options.types:
        for title, what, work, tokens in works:
            peers = (kind, options.model, options.steps)
            rows = [("ponte", ours(binary, *peers, what)), ("transformers eager", work(*peers, False))]
            if options.compile:
                took = compiled(work, options.compile_limit, *peers)
                if took:
                    rows.append(("transformers torch.compile", took))
                else:
                    print(f"transformers torch.compile, {title}, {options.model}, {kind}: did not finish in {options.compile_limit:.0f} s")
            report(f"{title}, {options.model}, {kind}", rows, tokens)


def report(title, rows, tokens):
    print(f"{title} ({torch.get_num_threads()} threads)")
    for name, (wall, processor) in rows:
        print(f"  {name:28s} {wall:7.3f} s  {processor:7.3f} processor s  {tokens / wall:8.1f} tokens/s")
    best = min(rows[1:], key=lambda row: row[1][0])
    print(f"  ratio to {best[0]}: {best[1][0] / rows[0][1][0]:.2f} by wall, {best[1][1] / rows[0][1][1]:.2f} by processor time", flush=True)


if __name__ == "__main__":
    main()
