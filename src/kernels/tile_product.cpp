#include "kernels/tile_product.h"

#include <ATen/native/CPUBlas.h>

namespace ponte {
namespace {

void library_tile_product(int64_t M, int64_t N, int64_t K, int64_t lda, int64_t ldb, int64_t ldc, bool accumulate, const float* A, const float* B, float* C) {
  at::native::cpublas::brgemm(M, N, K, lda, ldb, ldc, accumulate, A, B, C);
}

}  // namespace

// oneDNN's batch-reduce micro-kernel where it runs, which is on processors with 512-bit vectors.
TileProduct best_tile_product() {
  static const bool library = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
  return library ? library_tile_product : vector_tables().f32->tile_product;
}

}  // namespace ponte
