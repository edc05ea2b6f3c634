#!/usr/bin/env bash
# The main job on real input: import, preprocess, train, interrupt, resume, export, generate. Results go to build/demo.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../tools/setup.sh"
cd "$root"
ponte=${PONTE_BIN:-build/release/bin}/ponte
out=build/demo
python=${PONTE_PYTHON:-$root/.venv/bin/python}
prompt="The Debian system is"
interrupt_at=60
started=$SECONDS
rm -rf "$out" && mkdir -p "$out"
metrics=$out/train.jsonl

title() {  # the command as one would type it
  local word line="  \$"
  for word in "${@:2}"; do
    if [[ $word =~ ^[A-Za-z0-9_./=:,@%+-]+$ ]]; then line+=" $word"; else line+=" '$word'"; fi
  done
  if [ -n "$1" ]; then say ""; say "$1"; fi
  say "$line"
}
run() { title "$@"; "${@:2}"; }
iterations_done() { { grep lm_loss "$metrics" 2>/dev/null || true; } | wc -l; }

run "1. Import the Hugging Face checkpoint into Megatron's format" \
  $ponte import --hf-model demo/base --megatron-path $out/base
run "   and check every tensor, bit for bit, both ways" \
  $ponte verify --hf-model demo/base --megatron-path $out/base
run "2. Tokenise what the model has read, and a book it has not" \
  $ponte preprocess --input demo/prose.jsonl.gz --output-prefix $out/prose --tokenizer-model demo/base --append-eod
run "" \
  $ponte preprocess --input demo/book.jsonl.gz --output-prefix $out/book --tokenizer-model demo/base --append-eod

train=($ponte train --hf-model demo/base --config-file demo/train.yaml
  "dataset.data_path=[25,$out/prose_text_document,75,$out/book_text_document]"
  checkpoint.save=$out/run checkpoint.load=$out/run logger.jsonl=$metrics)
title "3. Train on a blend of both, and interrupt it at iteration $interrupt_at (SIGTERM, as a cluster would)" "${train[@]}"
"${train[@]}" &
training=$!
while kill -0 $training 2>/dev/null && [ "$(iterations_done)" -lt $interrupt_at ]; do sleep 0.2; done
kill -TERM $training 2>/dev/null || die "training ended before it could be interrupted"
wait $training || die "the interrupted training did not exit cleanly"
interrupted_at=$(iterations_done)
run "4. Resume with the same command" "${train[@]}"
run "5. Export to a Hugging Face folder" \
  $ponte export --megatron-path $out/run --hf-path $out/hf
generate=($ponte generate --hf-model-path $out/hf --prompt "$prompt" --max-new-tokens 60 --temperature 0.7 --top-p 0.9 --seed 1)
title "6. Generate" "${generate[@]}"
"${generate[@]}" | tee $out/generated.txt

"$python" demo/summary.py "$out" "$interrupted_at" $((SECONDS - started))
