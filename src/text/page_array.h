// An array of zeros that asks for huge pages: lookups at random places in small pages wait for address translation more than for memory.
#pragma once
#include <cstddef>
#include <cstdlib>
#include <memory>

namespace ponte {

void* allocate_pages(size_t bytes);  // zeroed; to be freed with std::free

template <class T>
class PageArray {
 public:
  explicit PageArray(size_t size) : size_(size), data_(static_cast<T*>(allocate_pages(size * sizeof(T)))) {}
  T& operator[](size_t i) { return data_.get()[i]; }
  const T& operator[](size_t i) const { return data_.get()[i]; }
  size_t size() const { return size_; }
  T* begin() { return data_.get(); }
  T* end() { return data_.get() + size_; }

 private:
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  size_t size_;
  std::unique_ptr<T, Free> data_;
};

}  // namespace ponte
