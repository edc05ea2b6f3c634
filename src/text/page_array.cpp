#include "text/page_array.h"

#include <sys/mman.h>

#include <cstring>
#include <new>

namespace ponte {

void* allocate_pages(size_t bytes) {
  constexpr size_t kHuge = size_t{2} << 20;
  const size_t alignment = bytes >= kHuge ? kHuge : 64;
  bytes = (bytes + alignment - 1) / alignment * alignment;
  void* out = std::aligned_alloc(alignment, bytes);
  if (!out) throw std::bad_alloc();
  if (bytes >= kHuge) madvise(out, bytes, MADV_HUGEPAGE);  // advice only
  std::memset(out, 0, bytes);
  return out;
}

}  // namespace ponte
