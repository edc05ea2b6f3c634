// An array of zeros that asks for huge pages: lookups at random places in small pages wait for address translation more than for memory.
#pragma once
#include <cstddef>
#include <type_traits>
#include <utility>

namespace ponte {

void* allocate_pages(size_t bytes);  // zeroed, and taken from the system only when first touched
void free_pages(void* pages, size_t bytes);

template <class T>
class PageArray {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  explicit PageArray(size_t size) : size_(size), data_(static_cast<T*>(allocate_pages(size * sizeof(T)))) {}
  PageArray(PageArray&& other) noexcept : size_(std::exchange(other.size_, 0)), data_(std::exchange(other.data_, nullptr)) {}
  PageArray& operator=(PageArray&& other) noexcept {
    std::swap(size_, other.size_), std::swap(data_, other.data_);
    return *this;
  }
  ~PageArray() { free_pages(data_, size_ * sizeof(T)); }
  T& operator[](size_t i) { return data_[i]; }
  const T& operator[](size_t i) const { return data_[i]; }
  size_t size() const { return size_; }
  T* data() { return data_; }
  const T* data() const { return data_; }
  T* begin() { return data_; }
  T* end() { return data_ + size_; }

 private:
  size_t size_;
  T* data_;
};

}  // namespace ponte
