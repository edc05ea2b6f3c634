#include "text/page_array.h"

#include <sys/mman.h>

#include <new>

namespace ponte {

void* allocate_pages(size_t bytes) {
  if (!bytes) return nullptr;
  void* const out = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (out == MAP_FAILED) throw std::bad_alloc();
  if (bytes >= size_t{2} << 20) madvise(out, bytes, MADV_HUGEPAGE);  // advice only
  return out;
}

void free_pages(void* pages, size_t bytes) {
  if (pages) munmap(pages, bytes);
}

}  // namespace ponte
