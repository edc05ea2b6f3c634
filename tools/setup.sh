# Shared by quickstart.sh, test.sh and .ci/run (sourced, not run): system packages, the Python environments, configure and build.
# PONTE_PYTHON=/path/to/python   uses that interpreter's torch instead of making .venv.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
logs=$root/build/logs
mkdir -p "$logs"

torch_version=2.13.0
needed_packages=(g++ cmake ninja-build pkg-config git ca-certificates curl python3 python3-venv nlohmann-json3-dev libfmt-dev libyaml-cpp-dev
  libcli11-dev zlib1g-dev libcurl4-openssl-dev libzstd-dev libxxhash-dev libpcre2-dev libutf8proc-dev libsimdjson-dev libssl-dev libgtest-dev
  libgloo-dev)
useful_packages=(ccache mold)  # faster builds, where the distribution has them

on_terminal() { [ -t 2 ] && [ "${TERM:-dumb}" != dumb ]; }
say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

log_of() { printf '%s/%s.log' "$logs" "$(tr -cs 'a-zA-Z0-9' '-' <<<"$1")"; }

# Ctrl-C. Commands in the background do not get it, so they are ended here; apt-get is waited for, because half-installed packages are worse.
interrupted() {
  trap '' INT
  if on_terminal; then printf '\r\033[K' >&2; fi
  if [[ $running == *apt-get* ]]; then say "  waiting for apt-get to end"; else kill $(jobs -p) 2>/dev/null || true; fi
  wait || true
  say "interrupted"
  exit 130
}
running=  # the command of the step
trap interrupted INT

# try_step "label" command...: runs it with its output in a log, showing the time that passes; its status, nothing more said, when it fails.
try_step() {
  local label=$1 start=$SECONDS; shift
  running=$*
  "$@" >"$(log_of "$label")" 2>&1 &
  local pid=$!
  if on_terminal; then
    while kill -0 $pid 2>/dev/null; do
      printf '\r  %-52s %4d s ' "$label" $((SECONDS - start)) >&2
      sleep 0.5
    done
    printf '\r\033[K' >&2
  fi
  wait $pid || return
  printf '  %-52s %4d s  done\n' "$label" $((SECONDS - start)) >&2
}

# step "label" command...: the same, and ends the script with the end of the log when it fails.
step() {
  try_step "$@" && return
  say "  $1: failed; the end of $(log_of "$1"):"
  tail -n 25 "$(log_of "$1")" >&2
  exit 1
}

missing_packages() {  # of the names given, those dpkg does not have
  local name
  for name in "$@"; do
    dpkg-query -W -f='${Status}' "$name" 2>/dev/null | grep -q 'ok installed' || printf '%s ' "$name"
  done
}

install_packages() {  # install_packages NAME...: through apt, as root or with sudo; else says what to install
  command -v dpkg-query >/dev/null || return 0  # another distribution: CMake will name what it misses
  local missing as_root=()
  read -ra missing <<<"$(missing_packages "$@")"
  [ ${#missing[@]} -eq 0 ] && return 0
  if [ "$(id -u)" != 0 ]; then
    if command -v sudo >/dev/null && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then
      as_root=(sudo)
      sudo -v
    else
      die "these packages are missing and this user may not install them; ask for: apt-get install ${missing[*]}"
    fi
  fi
  step "reading the package lists" "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -q
  local name wanted=()
  for name in "${missing[@]}"; do
    if apt-cache show "$name" >/dev/null 2>&1; then wanted+=("$name"); else say "  this distribution has no package $name"; fi
  done
  [ ${#wanted[@]} -eq 0 ] || step "installing ${#wanted[@]} system packages" "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -q -y --no-install-recommends "${wanted[@]}"
}

has_gpu() { command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU; }

install_torch() {
  local index=https://download.pytorch.org/whl/cpu pip=("$root/.venv/bin/python" -m pip install -q --disable-pip-version-check)
  if has_gpu; then
    "${pip[@]}" "torch==$torch_version"
  elif curl -fsS -m 8 -o /dev/null "$index/torch/" 2>/dev/null; then
    "${pip[@]}" --index-url "$index" "torch==$torch_version"
  else
    "${pip[@]}" "torch==$torch_version"
  fi
}

torch_ready() { "$1" -c "import importlib.metadata as m; assert m.version('torch').split('+')[0] == '$torch_version'" 2>/dev/null; }

# Sets `python`: the interpreter whose torch wheel provides LibTorch.
ensure_python() {
  if [ -n "${PONTE_PYTHON:-}" ]; then
    python=$PONTE_PYTHON
    "$python" -c 'import torch' || die "PONTE_PYTHON=$python has no torch"
    return
  fi
  python=$root/.venv/bin/python
  [ -x "$python" ] && torch_ready "$python" && return
  [ -x "$python" ] && "$python" -m pip --version >/dev/null 2>&1 || step "making the Python environment .venv" python3 -m venv --clear "$root/.venv"
  step "installing torch $torch_version" install_torch
}

# Arrow's libraries, for Parquet files; without them everything else still builds and works.
ensure_arrow() {
  "$python" -c 'import pyarrow' 2>/dev/null && return
  [ "$python" = "$root/.venv/bin/python" ] || return 0
  try_step "installing pyarrow" "$python" -m pip install -q --disable-pip-version-check "pyarrow>=18" ||
    say "  pyarrow could not be installed: Parquet files will not be read"
}

# Sets `test_python`: .venv-test, which sees the torch of `python` and adds the reference implementations the oracle tests compare with.
ensure_test_python() {
  test_python=$root/.venv-test/bin/python
  local stamp=$root/.venv-test/installed want
  want=$(cat "$root"/tests/oracle/requirements*.txt; readlink -f "$python")
  [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ] && return
  step "making the Python environment .venv-test" "$python" -m venv --clear "$root/.venv-test"
  "$python" -c 'import site; print("\n".join(site.getsitepackages()))' >"$("$test_python" -c 'import site; print(site.getsitepackages()[0])')/torch_of_ponte.pth"
  step "installing the reference libraries" "$test_python" -m pip install -q --disable-pip-version-check "torch==$torch_version" -r "$root/tests/oracle/requirements.txt"
  step "installing megatron-core" "$test_python" -m pip install -q --disable-pip-version-check --no-deps -r "$root/tests/oracle/requirements-no-deps.txt"
  printf '%s' "$want" >"$stamp"
}

build_jobs() {  # a torch translation unit takes about 1.5 GB
  local cores memory_gb
  cores=$(nproc)
  memory_gb=$(awk '/MemAvailable/ {print int($2 / 1500000)}' /proc/meminfo)
  echo $((memory_gb < 1 ? 1 : (cores < memory_gb ? cores : memory_gb)))
}

# Ninja's output as one moving line with the time that passes; every tenth of the way a line where there is no terminal. (Not awk: mawk reads
# a pipe by blocks, so that the line stood still for minutes.)
show_build_progress() {  # show_build_progress LABEL LOG <output
  local label=$1 line rest= status percent counts= next_line=0 start=$SECONDS terminal=0
  on_terminal && terminal=1
  while true; do
    status=0
    IFS= read -r -t 1 line || status=$?  # over 128: a second passed; `line` is what came of the line so far
    rest+=$line
    if [ $status -le 128 ] && [ -n "$rest" ]; then
      printf '%s\n' "$rest"
      if [[ $rest =~ ^\[([0-9]+)/([0-9]+)\] ]]; then
        percent=$((100 * BASH_REMATCH[1] / BASH_REMATCH[2])) counts="$percent %  (${BASH_REMATCH[1]} of ${BASH_REMATCH[2]})"
        if [ $terminal = 0 ] && [ $percent -ge $next_line ]; then
          printf '  %s: %s\n' "$label" "$counts" >&2
          next_line=$((percent - percent % 10 + 10))
        fi
      fi
      rest=
    fi
    [ $terminal = 0 ] || printf '\r  %-28s%24s %4d s ' "$label" "$counts" $((SECONDS - start)) >&2
    [ $status = 0 ] || [ $status -gt 128 ] || break
  done >"$2"
  [ $terminal = 0 ] || printf '\r\033[K' >&2
}

# build PRESET [TARGET...]: configures when needed and builds.
build() {
  local preset=$1 start; shift
  local folder=$root/build/$preset log=$root/build/logs/build-$preset.log
  step "configuring $preset" env -C "$root" cmake --preset "$preset" -DPONTE_PYTHON="${python:-}"
  start=$SECONDS
  if ! ninja -C "$folder" -j "$(build_jobs)" "$@" 2>&1 | show_build_progress "building $preset" "$log"; then
    grep -anE -A12 'FAILED|error:' "$log" | head -60 >&2
    die "the $preset build failed; the whole log: $log"
  fi
  printf '  %-52s %4d s  done\n' "building $preset" $((SECONDS - start)) >&2
}
