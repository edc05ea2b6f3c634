#include "layout/shares.h"

#include <algorithm>

#include "base/errors.h"

namespace ponte {

std::vector<std::vector<Rows>> share_rows(std::span<const Extent> tensors, int64_t parts) {
  PONTE_ASSERT(parts >= 1);
  int64_t total = 0;
  for (const Extent& t : tensors) total += t.rows * t.row_elements;
  std::vector<std::vector<Rows>> out(static_cast<size_t>(parts));
  // Cut p lies at total * p / parts, moved to the nearest row boundary; 128 bits, for the product of a large model and many parts.
  const auto cut = [&](int64_t p) { return static_cast<int64_t>(static_cast<__int128>(total) * p / parts); };
  int64_t first = 0;  // element the tensor starts at
  for (const Extent& t : tensors) {
    int64_t begin = 0;
    for (int64_t p = 0; p < parts; ++p) {
      const int64_t wanted = cut(p + 1) - first;
      const int64_t end = t.row_elements == 0 || p + 1 == parts ? t.rows : std::clamp((wanted + t.row_elements / 2) / t.row_elements, begin, t.rows);
      out[static_cast<size_t>(p)].push_back({begin, end});
      begin = end;
    }
    first += t.rows * t.row_elements;
  }
  return out;
}

std::vector<Rows> intersection(std::span<const Rows> some, Rows others) {
  std::vector<Rows> out;
  for (const Rows& rows : some) {
    const Rows both{std::max(rows.begin, others.begin), std::min(rows.end, others.end)};
    if (both.begin < both.end) out.push_back(both);
  }
  return out;
}

}  // namespace ponte
