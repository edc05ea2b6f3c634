#!/usr/bin/env python3
"""A Qwen3-shaped model folder for conversion benchmarks: random bytes, or zeros in a sparse file that takes no room. Standard library only.

usage: make_model.py FOLDER [--layers 28 --hidden 1024 --ffn 3072 --heads 16 --groups 8 --head-dim 128 --vocab 151936] [--sparse]
The defaults are Qwen3-0.6B: 310 tensors, 1.19 GB.
"""
import argparse
import json
import os
import pathlib


def shapes(a):
    out = {"model.embed_tokens.weight": [a.vocab, a.hidden], "model.norm.weight": [a.hidden]}
    for i in range(a.layers):
        p = f"model.layers.{i}."
        out |= {p + "input_layernorm.weight": [a.hidden], p + "post_attention_layernorm.weight": [a.hidden],
                p + "self_attn.q_proj.weight": [a.heads * a.head_dim, a.hidden], p + "self_attn.k_proj.weight": [a.groups * a.head_dim, a.hidden],
                p + "self_attn.v_proj.weight": [a.groups * a.head_dim, a.hidden], p + "self_attn.o_proj.weight": [a.hidden, a.heads * a.head_dim],
                p + "self_attn.q_norm.weight": [a.head_dim], p + "self_attn.k_norm.weight": [a.head_dim],
                p + "mlp.gate_proj.weight": [a.ffn, a.hidden], p + "mlp.up_proj.weight": [a.ffn, a.hidden], p + "mlp.down_proj.weight": [a.hidden, a.ffn]}
    return dict(sorted(out.items()))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    for name, value in (("layers", 28), ("hidden", 1024), ("ffn", 3072), ("heads", 16), ("groups", 8), ("head-dim", 128), ("vocab", 151936)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--sparse", action="store_true")
    a = parser.parse_args()
    a.folder.mkdir(parents=True, exist_ok=True)
    header, offset = {}, 0
    for name, shape in shapes(a).items():
        size = 2
        for extent in shape:
            size *= extent
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(a.folder / "model.safetensors", "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        if a.sparse:
            f.truncate(8 + len(text) + offset)
        else:
            for done in range(0, offset, 1 << 24):
                f.write(os.urandom(min(1 << 24, offset - done)))
        f.flush()
        os.fsync(f.fileno())
    config = dict(architectures=["Qwen3ForCausalLM"], model_type="qwen3", hidden_size=a.hidden, intermediate_size=a.ffn, num_hidden_layers=a.layers,
                  num_attention_heads=a.heads, num_key_value_heads=a.groups, head_dim=a.head_dim, vocab_size=a.vocab, max_position_embeddings=40960,
                  rms_norm_eps=1e-6, rope_theta=1000000.0, tie_word_embeddings=True, torch_dtype="bfloat16")
    (a.folder / "config.json").write_text(json.dumps(config, indent=2))
    print(f"{a.folder}: {len(header)} tensors, {offset / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
