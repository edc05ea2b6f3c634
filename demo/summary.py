"""The last screen of the demo: what was done, the figures, what to try next."""
import json
import pathlib
import sys

out, interrupted_at, seconds = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
steps = [json.loads(line) for line in (out / "train.jsonl").read_text().splitlines()]
train = {s["iteration"]: s for s in steps if "lm_loss" in s}
validation = {s["iteration"]: s["val_loss"] for s in steps if "val_loss" in s}
rate = sorted(s["tokens_per_second"] for s in train.values())[len(train) // 2]
last = max(train)
tokens = sum((out / f"{name}_text_document.bin").stat().st_size // 2 for name in ("prose", "book"))
names = [int(p.name.split("_")[1]) for p in (out / "run").glob("iter_*")]
at = sorted(validation)


def mean_loss(iterations):
    return sum(train[i]["lm_loss"] for i in iterations) / len(iterations)


begin, end = mean_loss(sorted(train)[:10]), mean_loss(sorted(train)[-10:])

print(f"""
------------------------------------------------------------------------------------------
 Done in {seconds} s. Everything lies in {out}.

 imported     demo/base -> {out}/base, every tensor verified bit for bit
 tokenised    2.9 MB of prose -> {tokens:,} tokens
 trained      {last} iterations, {rate:,.0f} tokens/s; interrupted at {interrupted_at} and resumed
              train loss       {begin:.3f} (first ten iterations) -> {end:.3f} (last ten)
              validation loss  {validation[at[0]]:.3f} (iteration {at[0]}) -> {validation[at[-1]]:.3f} (iteration {at[-1]})
 checkpoints  {', '.join(f'iter_{n:07d}' for n in sorted(names))}
 exported     {out}/hf, which transformers loads as it is

 Next:
   build/release/bin/ponte chat --hf-model-path {out}/hf
   build/release/bin/ponte inspect {out}/run
   build/release/bin/ponte recipes list
   build/release/bin/ponte train --recipe qwen3_600m_pretrain_config --dry-run
   ./test.sh fast
------------------------------------------------------------------------------------------""")
if not (end < begin - 0.2 and validation[at[-1]] < validation[at[0]]):
    sys.exit("the losses did not fall as they should")
