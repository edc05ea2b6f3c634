#!/usr/bin/env bash
# Compiles what is for CUDA alone; no GPU is needed. Every .cu of src/ with nvcc for the supported architectures (the launchers are torch-free, so nvcc alone
# suffices), and comm/nccl.cpp against NCCL's and CUDA's headers: those in PONTE_CUDA_INCLUDE (folders with colons between), of the toolkit, of the system, or
# NCCL's wheel, of which build/cuda-headers keeps the headers.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PONTE_PYTHON:-.venv/bin/python}
fetched=build/cuda-headers
mkdir -p build/cuda-objects
find src -name '*.cu' | while read -r file; do
  echo "nvcc $file"
  nvcc -std=c++17 -O2 -Isrc -Xcompiler -fPIC -gencode arch=compute_80,code=sm_80 -gencode arch=compute_90,code=sm_90 -gencode arch=compute_100,code=sm_100 \
    -c "$file" -o "build/cuda-objects/$(tr / _ <<<"$file").o"
done

# Sets `includes`, or `missing` to the first header that is nowhere.
find_headers() {
  local header place given places
  IFS=: read -ra given <<<"${PONTE_CUDA_INCLUDE:-}"
  places=("${given[@]}" /usr/local/cuda/include /usr/include "$fetched"/nvidia/*/include)
  includes=()
  for header in nccl.h cuda_runtime.h crt/host_config.h; do
    for place in "${places[@]}"; do
      [ -n "$place" ] && [ -e "$place/$header" ] || continue
      [ "$place" = /usr/include ] || includes+=("-isystem$place")
      continue 2
    done
    missing=$header
    return 1
  done
}

if ! find_headers && command -v nvcc >/dev/null; then
  echo "no $missing here: fetching NCCL's headers"
  "$python" -m pip install -q --disable-pip-version-check --no-deps --upgrade --target "$fetched" nvidia-nccl-cu13 || true
  find "$fetched" -name '*.so*' -delete 2>/dev/null || true  # its library is not kept
fi
find_headers || { echo "no $missing: comm/nccl.cpp was not compiled"; exit 0; }

# LibTorch's headers name the handles of libraries that comm/nccl.cpp never calls, and one header says how LibTorch's CUDA part was linked, which a wheel for
# processors lacks. Found last, after true ones.
stub=build/cuda-objects/stub
mkdir -p $stub/c10/cuda/impl
touch $stub/c10/cuda/impl/cuda_cmake_macros.h
echo 'typedef struct cublasContext* cublasHandle_t; enum cublasStatus_t : int;' >$stub/cublas_v2.h
echo 'typedef struct cublasLtContext* cublasLtHandle_t;' >$stub/cublasLt.h
echo 'typedef struct cusparseContext* cusparseHandle_t; enum cusparseStatus_t : int;' >$stub/cusparse.h
echo 'typedef struct cusolverDnContext* cusolverDnHandle_t; enum cusolverStatus_t : int;' >$stub/cusolverDn.h
cp $stub/cusolverDn.h $stub/cusolver_common.h
torch=$("$python" -c "import importlib.util, pathlib; print(pathlib.Path(importlib.util.find_spec('torch').origin).parent)")
echo "g++ src/comm/nccl.cpp"
g++ -std=c++20 -fsyntax-only -Wall -Wextra -Wno-unused-parameter -DUSE_DISTRIBUTED -DUSE_C10D_NCCL -Isrc \
  -isystem "$torch/include" -isystem "$torch/include/torch/csrc/api/include" "${includes[@]}" -isystem $stub src/comm/nccl.cpp
