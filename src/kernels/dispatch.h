// What the CPU fast paths share: when they apply, typed pointers, and row ranges cut the same way whatever the number of threads, so that sums do not
// depend on it.
#pragma once
#include <ATen/core/Tensor.h>

#include "kernels/parallel.h"
#include "kernels/vector.h"

namespace ponte {

inline bool has_vector_path(const at::Tensor& t) {
  return t.device().is_cpu() && (t.scalar_type() == at::kFloat || t.scalar_type() == at::kBFloat16);
}

// A CUDA card's kernels; on the meta device their shapes (kernels/meta_shapes.h), so that what is run there is a card's program.
inline bool has_card_path(const at::Tensor& t) { return t.is_cuda() || t.is_meta(); }

// body(T{}) with T float or Bf16, as the tensor is.
template <class Body>
decltype(auto) with_vector_type(const at::Tensor& t, Body body) {
  if (t.scalar_type() == at::kFloat) return body(float{});
  return body(Bf16{});
}

template <class T>
T* pointer(const at::Tensor& t) {
  return t.defined() ? static_cast<T*>(t.data_ptr()) : nullptr;
}

// fp32, or fp64 for fp64: statistics and gradients.
inline at::ScalarType accumulation_type(const at::Tensor& t) { return t.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

inline constexpr int64_t kRanges = 32;

// body(range, begin, end) over [0, n) cut into at most kRanges ranges.
template <class Body>
void for_ranges(int64_t n, Body body) {
  const int64_t ranges = n < kRanges ? n : kRanges;
  parallel_parts(0, ranges, 1, [&](int64_t from, int64_t to) {
    for (int64_t r = from; r < to; ++r) body(r, n * r / ranges, n * (r + 1) / ranges);
  });
}

}  // namespace ponte
