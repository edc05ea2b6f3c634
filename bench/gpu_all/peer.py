"""transformers on the same card: SDPA and torch.compile, bf16. The last line printed is a JSON object.

    peer.py step SHAPE MICRO_BATCH [--device cuda] [--tiny]       a training step of Qwen3-1.7B's shape, fused AdamW, fp32 master weights left out
    peer.py make --folder F                                       writes a Qwen3-8B-shaped model of random weights
    peer.py decode --folder F --new N                             greedy decoding of one sequence
"""
import argparse
import json
import statistics
import time

import torch
import transformers

QWEN3_1P7B = dict(vocab_size=151936, hidden_size=2048, num_hidden_layers=28, num_attention_heads=16, num_key_value_heads=8, head_dim=128,
                  intermediate_size=6144, max_position_embeddings=40960, tie_word_embeddings=True)
QWEN3_8B = dict(vocab_size=151936, hidden_size=4096, num_hidden_layers=36, num_attention_heads=32, num_key_value_heads=8, head_dim=128,
                intermediate_size=12288, max_position_embeddings=40960, tie_word_embeddings=False)
TINY = dict(vocab_size=8192, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16, intermediate_size=96,
            max_position_embeddings=512, tie_word_embeddings=False)


def model_of(shape, options):
    config = transformers.Qwen3Config(**(TINY if options.tiny else shape), bos_token_id=None, eos_token_id=8189, pad_token_id=8189)
    with torch.device(options.device):
        torch.set_default_dtype(torch.bfloat16)
        model = transformers.Qwen3ForCausalLM._from_config(config, attn_implementation="sdpa", dtype=torch.bfloat16)
        torch.set_default_dtype(torch.float32)
    return model


def timed(body, warm_up, repeats, device):
    walls = []
    for i in range(warm_up + repeats):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        body()
        if device == "cuda":
            torch.cuda.synchronize()
        if i >= warm_up:
            walls.append(time.perf_counter() - start)
    return statistics.median(walls)


def step(options):
    model = model_of(QWEN3_1P7B, options).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, fused=True)
    length = 64 if options.tiny else 4096
    tokens = torch.randint(3, 8000, (options.micro_batch, length), device=options.device)
    out = {}
    for name, run in (("sdpa", model), ("sdpa_compile", model if options.tiny else torch.compile(model))):
        def body():
            run(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        out[name + "_tokens_per_second"] = tokens.numel() / timed(body, 3, 5, options.device)
    return {"tokens_per_second": max(out.values()), **out}


def make(options):
    torch.manual_seed(0)
    model_of(QWEN3_8B, options).save_pretrained(options.folder)
    return {"made": True}


def decode(options):
    model = transformers.AutoModelForCausalLM.from_pretrained(options.folder, dtype=torch.bfloat16, attn_implementation="sdpa").to(options.device).eval()
    prompt = torch.randint(3, 8000, (1, 4), device=options.device)

    def body():
        with torch.no_grad():
            model.generate(prompt, max_new_tokens=options.new, min_new_tokens=options.new, do_sample=False, use_cache=True, pad_token_id=0, eos_token_id=None)
    return {"tokens_per_second": options.new / timed(body, 1, 2, options.device)}


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("what", choices=["step", "make", "decode"])
    arguments.add_argument("shape", nargs="?")
    arguments.add_argument("micro_batch", nargs="?", type=int, default=1)
    arguments.add_argument("--device", default="cuda")
    arguments.add_argument("--tiny", action="store_true")
    arguments.add_argument("--folder")
    arguments.add_argument("--new", type=int, default=256)
    options = arguments.parse_args()
    print(json.dumps({"step": step, "make": make, "decode": decode}[options.what](options)))


if __name__ == "__main__":
    main()
