"""Compares Ponte's ids with those of the `tokenizers` library, document by document, and the decoded text and offsets of every 50th.

Usage: compare_ids.py --tokenizer DIR --corpus FILE.jsonl [--megabytes 60] [--tool build/release/bin/ponte-text-tool]
The corpus has one {"text": ...} a line. Prints the number of documents, bytes, ids and differences; exits 1 when there is a difference.
"""
import argparse
import json
import pathlib
import struct
import subprocess
import sys

from tokenizers import Tokenizer

ROOT = pathlib.Path(__file__).resolve().parents[2]


def run(command, frames):
    process = subprocess.run(command, input=b"".join(frames), capture_output=True)
    if process.returncode:
        sys.exit(process.stderr.decode(errors="replace"))
    return process.stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--megabytes", type=float, default=60)
    parser.add_argument("--tool", default=str(ROOT / "build" / "release" / "bin" / "ponte-text-tool"))
    options = parser.parse_args()
    oracle = Tokenizer.from_file(options.tokenizer + "/tokenizer.json")
    texts, size = [], 0
    for line in open(options.corpus):
        texts.append(json.loads(line)["text"])
        size += len(texts[-1].encode())
        if size >= options.megabytes * 1e6:
            break
    encoded = [t.encode() for t in texts]
    data = run([options.tool, "encode", options.tokenizer, "--no-special"], [struct.pack("<I", len(t)) + t for t in encoded])
    at, ids, differ, frames = 0, 0, 0, []
    for start in range(0, len(texts), 500):
        for text, want in zip(texts[start : start + 500], oracle.encode_batch(texts[start : start + 500], add_special_tokens=False)):
            (n,) = struct.unpack_from("<I", data, at)
            got = list(struct.unpack_from(f"<{n}i", data, at + 4))
            frames.append(data[at : at + 4 + 4 * n])
            at += 4 + 4 * n
            ids += n
            if got != want.ids:
                differ += 1
                if differ <= 5:
                    k = next((i for i, (a, b) in enumerate(zip(got, want.ids)) if a != b), min(len(got), n))
                    print("differs at id", k, got[k : k + 5], want.ids[k : k + 5], ascii(oracle.decode(want.ids[max(0, k - 3) : k + 5])))
    decoded = run([options.tool, "decode", options.tokenizer], frames)
    at, wrong = 0, 0
    for i in range(len(texts)):
        (n,) = struct.unpack_from("<I", decoded, at)
        want = oracle.decode(oracle.encode(texts[i], add_special_tokens=False).ids, skip_special_tokens=False) if i % 50 == 0 else None
        wrong += want is not None and want.encode() != decoded[at + 4 : at + 4 + n]
        at += 4 + n
    some = texts[::50]
    spans = run([options.tool, "offsets", options.tokenizer, "--no-special"], [struct.pack("<I", len(t)) + t for t in encoded[::50]])
    at, moved = 0, 0
    for want in oracle.encode_batch(some, add_special_tokens=False):
        (n,) = struct.unpack_from("<I", spans, at)
        got = struct.unpack_from(f"<{n}i", spans, at + 4)
        at += 4 + 4 * n
        moved += list(zip(got[1::3], got[2::3])) != want.offsets
    print(f"{len(texts)} documents, {size / 1e6:.1f} MB, {ids} ids: {differ} documents differ; of every 50th, the text of {wrong} and the offsets of {moved}")
    sys.exit(differ + wrong + moved > 0)


if __name__ == "__main__":
    main()
