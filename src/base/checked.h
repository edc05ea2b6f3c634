// Sizes are int64_t; products and sums of untrusted sizes are checked.
#pragma once
#include <cstdint>
#include <span>

#include "base/errors.h"

namespace ponte {

inline int64_t checked_multiply(int64_t a, int64_t b, std::string_view what) {
  int64_t out;
  require(!__builtin_mul_overflow(a, b, &out), "{}: {} x {} overflows 64 bits", what, a, b);
  return out;
}

inline int64_t checked_add(int64_t a, int64_t b, std::string_view what) {
  int64_t out;
  require(!__builtin_add_overflow(a, b, &out), "{}: {} + {} overflows 64 bits", what, a, b);
  return out;
}

// Number of elements of a shape; rejects negative extents and overflow. `what` names the tensor in the error.
inline int64_t checked_numel(std::span<const int64_t> shape, std::string_view what) {
  int64_t out = 1;
  for (int64_t extent : shape) {
    require(extent >= 0, "{}: negative extent {} in its shape", what, extent);
    out = checked_multiply(out, extent, what);
  }
  return out;
}

}  // namespace ponte
