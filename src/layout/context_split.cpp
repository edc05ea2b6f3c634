#include "layout/context_split.h"

#include "base/errors.h"

namespace ponte {

std::vector<int64_t> context_tokens(int64_t row_tokens, int64_t rank, int64_t size) {
  PONTE_ASSERT(rank >= 0 && rank < size);
  const int64_t chunks = size == 1 ? 1 : 2 * size;
  require(row_tokens % chunks == 0, "context parallelism: {} tokens of a row do not divide into 2 x {} chunks", row_tokens, size);
  const int64_t length = row_tokens / chunks;
  std::vector<int64_t> out;
  for (int64_t i = 0; i < length; ++i) out.push_back(rank * length + i);
  for (int64_t i = 0; size > 1 && i < length; ++i) out.push_back((chunks - 1 - rank) * length + i);
  return out;
}

std::vector<int64_t> context_order(int64_t row_tokens, int64_t size) {
  std::vector<int64_t> out;
  for (int64_t r = 0; r < size; ++r) {
    const std::vector<int64_t> own = context_tokens(row_tokens, r, size);
    out.insert(out.end(), own.begin(), own.end());
  }
  return out;
}

}  // namespace ponte
