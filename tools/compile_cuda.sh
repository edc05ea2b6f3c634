#!/usr/bin/env bash
# Compiles every .cu of src/ with nvcc for the supported architectures; no GPU is needed. The launchers are torch-free, so nvcc alone suffices.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
mkdir -p build/cuda-objects
find src -name '*.cu' | while read -r file; do
  echo "nvcc $file"
  nvcc -std=c++17 -O2 -Isrc -Xcompiler -fPIC -gencode arch=compute_80,code=sm_80 -gencode arch=compute_90,code=sm_90 \
    -c "$file" -o "build/cuda-objects/$(tr / _ <<<"$file").o"
done
