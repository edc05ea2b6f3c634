#!/usr/bin/env bash
# usage: tools/fuzz.sh SECONDS [NAME...]    runs the fuzz targets of build/fuzz, two at a time, from tests/fuzz/corpus/NAME, with the dictionary
# (tests/fuzz/*.dict) that names it; finds go to build/fuzz/found. PONTE_FUZZ_SEED=N walks the same way each time.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
seconds=$1; shift
names=("$@")
[ ${#names[@]} -gt 0 ] || for file in tests/fuzz/*_fuzz.cpp; do [ -e "$file" ] && names+=("$(basename "$file" _fuzz.cpp)"); done
mkdir -p build/fuzz/found
TMPDIR=$(mktemp -d) && export TMPDIR  # of the targets that write files; one that crashes leaves them
trap 'rm -rf "$TMPDIR"' EXIT
run_one() {
  local name=$1 seconds=$2 log=build/fuzz/$1.log dictionary
  dictionary=$(grep -lE "^# for:.* $name( |\$)" tests/fuzz/*.dict || true)  # words of the language that the target reads
  mkdir -p "build/fuzz/corpus/$name" "tests/fuzz/corpus/$name"
  if "build/fuzz/tests/${name}_fuzz" ${dictionary:+"-dict=$dictionary"} ${PONTE_FUZZ_SEED:+"-seed=$PONTE_FUZZ_SEED"} -max_total_time="$seconds" -timeout=10 -rss_limit_mb=3000 -artifact_prefix="build/fuzz/found/$name-" \
      "build/fuzz/corpus/$name" "tests/fuzz/corpus/$name" >"$log" 2>&1; then
    echo "fuzz $name: clean, $(grep -oE 'stat::number_of_executed_units: *[0-9]+|Done [0-9]+ runs' "$log" | tail -1)"
  else
    echo "fuzz $name: FAILED"; tail -n 40 "$log"; return 1
  fi
}
export -f run_one
printf '%s\n' "${names[@]}" | xargs -P "$(nproc)" -I{} bash -c 'run_one "$1" "$2"' _ {} "$seconds"
