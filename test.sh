#!/usr/bin/env bash
# usage: ./test.sh [fast|full]      builds, then runs the C++ tests (ctest) and the oracle tests (pytest); fast: under a minute after the build
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/tools/setup.sh"
mode=${1:-full}
case $mode in fast | full) ;; *) die "usage: ./test.sh [fast|full]" ;; esac
cd "$root"
install_packages "${needed_packages[@]}" "${useful_packages[@]}"
ensure_python
ensure_arrow
ensure_test_python
"$test_python" tools/check_layers.py
build release
export PONTE_BIN=$root/build/release/bin
failed=0
# C++ tests run side by side on tiny models, so each has one thread; those about threads ask for them.
if [ "$mode" = fast ]; then
  OMP_NUM_THREADS=1 ctest --test-dir build/release -L fast --output-on-failure -j "$(nproc)" --timeout 600 || failed=1
  "$test_python" -m pytest -q tests/oracle -m fast || failed=1
else
  OMP_NUM_THREADS=1 ctest --test-dir build/release --output-on-failure -j "$(nproc)" --timeout 600 || failed=1
  "$test_python" -m pytest -q tests/oracle --durations=10 || failed=1
fi
exit $failed
