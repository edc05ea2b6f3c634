#!/usr/bin/env bash
# usage: ./quickstart.sh [--build-only]      from a bare Debian 12 / Ubuntu 22.04 or 24.04 to a trained, exported, talking model
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/tools/setup.sh"
case ${1:-} in
  '' | --build-only) ;;
  *) die "usage: ./quickstart.sh [--build-only]" ;;
esac
cd "$root"
say "Ponte: setting up in $root"
install_packages "${needed_packages[@]}" "${useful_packages[@]}"
ensure_python
ensure_arrow
build release ponte ponte-torch
if [ "${1:-}" = --build-only ]; then
  say "built: $root/build/release/bin/ponte        try: build/release/bin/ponte --help"
else
  exec demo/run.sh
fi
