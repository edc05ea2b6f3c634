#!/usr/bin/env python3
"""The layer law: a folder of src/ includes only itself and folders of strictly lower rank, and torch headers only above the torch line."""
import pathlib
import re
import sys

root = pathlib.Path(__file__).resolve().parent.parent
rank, torch = {}, set()
for line in (root / "tools/layers.txt").read_text().splitlines():
    words = line.split("#")[0].split()
    if words:
        rank[words[0]] = int(words[1])
        if "torch" in words[2:]:
            torch.add(words[0])

include = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]')
torch_header = re.compile(r"^(ATen|torch|c10|caffe2)/")
bad = []
for file in sorted((root / "src").rglob("*")):
    if file.suffix not in {".h", ".cpp", ".cu", ".cuh"}:
        continue
    folder = file.relative_to(root / "src").parts[0]
    where = file.relative_to(root)
    if folder not in rank:
        bad.append(f"{where}: folder '{folder}' has no rank in tools/layers.txt")
        continue
    for number, line in enumerate(file.read_text().splitlines(), 1):
        match = include.match(line)
        if not match:
            continue
        target = match.group(1)
        if torch_header.match(target):
            if folder not in torch:
                bad.append(f"{where}:{number}: {folder} is torch-free but includes <{target}>")
            if target.startswith("torch/") and file.suffix == ".h" and target in ("torch/torch.h", "torch/all.h"):
                bad.append(f"{where}:{number}: a header may not include {target}")
            continue
        other = target.split("/")[0]
        if other in rank and other != folder and rank[other] >= rank[folder]:
            bad.append(f"{where}:{number}: {folder} (rank {rank[folder]}) includes {target} (rank {rank[other]})")
        if other in torch and folder not in torch:
            bad.append(f"{where}:{number}: {folder} is torch-free but includes {target}")
print("\n".join(bad) if bad else f"layer law holds over {len(rank)} folders")
sys.exit(bool(bad))
