#!/usr/bin/env python3
"""House rules a machine can see: no unfinished marks, no tabs or trailing blanks, lines up to 160 columns, a first comment in every source
(a .cpp beside its header may leave it to the header),
getenv only in base/environment, a reason in the first comment of files over 400 lines."""
import pathlib
import re
import subprocess
import sys

root = pathlib.Path(__file__).resolve().parent.parent
tracked = subprocess.run(["git", "-C", root, "ls-files", "src", "tests", "bench", "tools", "cmake", "docs"], capture_output=True, text=True, check=True)
unfinished = re.compile(r"\b(TO" r"DO|FIX" r"ME|X" r"XX|GTEST_" r"SKIP)\b")
bad = []
for name in tracked.stdout.split():
    path = root / name
    if path.suffix not in {".h", ".cpp", ".cu", ".cuh", ".py", ".sh", ".md", ".cmake"} or not path.exists() or "corpus/" in name or "golden/" in name:
        continue
    lines = path.read_text().splitlines()
    source = path.suffix in {".h", ".cpp", ".cu", ".cuh"}
    if source and lines and not lines[0].startswith(("//", "/*")) and not path.with_suffix(".h").exists():
        bad.append(f"{name}:1: the first line is no comment that states the file's idea")
    if source and name.startswith("src/") and len(lines) > 400 and not any("400" in line or "long" in line.lower() for line in lines[:8]):
        bad.append(f"{name}: {len(lines)} lines and no reason in the first comment")
    for number, line in enumerate(lines, 1):
        if unfinished.search(line):
            bad.append(f"{name}:{number}: an unfinished mark")
        if source and ("\t" in line or line != line.rstrip()):
            bad.append(f"{name}:{number}: a tab or trailing blank")
        if source and len(line) > 160:
            bad.append(f"{name}:{number}: {len(line)} columns")
        if source and "getenv" in line and not name.startswith("src/base/environment") and name.startswith("src/"):
            bad.append(f"{name}:{number}: getenv outside base/environment")
print("\n".join(bad) if bad else "style holds")
sys.exit(bool(bad))
