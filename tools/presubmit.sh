#!/usr/bin/env bash
# The quick look before a commit: layer law, whitespace, unfinished marks, long files; then ./test.sh fast.   --static: without the tests
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python3 tools/check_layers.py
python3 tools/check_style.py
[ "${1:-}" = --static ] || ./test.sh fast
