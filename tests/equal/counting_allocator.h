// An allocator that counts live bytes and stands in for LibTorch's own, so that tests see what tensors hold.
#pragma once
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/alloc_cpu.h>

#include <atomic>
#include <cstring>

namespace ponte {

// Bytes that are given out, and the most there were at a time.
class PeakCounter {
 public:
  void add(int64_t bytes) {
    const int64_t now = live_ += bytes;
    for (int64_t top = peak_; now > top && !peak_.compare_exchange_weak(top, now);) {
    }
  }
  int64_t live() const { return live_; }
  int64_t peak() const { return peak_; }
  void restart() { peak_ = live_.load(); }

 private:
  std::atomic<int64_t> live_{0}, peak_{0};
};

// Counts bytes as asked for; each block's size lies in front of it.
class CountingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    auto* block = static_cast<std::byte*>(c10::alloc_cpu(bytes + kFront));
    std::memcpy(block, &bytes, sizeof bytes);
    count_.add(static_cast<int64_t>(bytes));
    return {block + kFront, block + kFront, &release, at::kCPU};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }

  int64_t live() const { return count_.live(); }
  int64_t peak() const { return count_.peak(); }
  void restart() { count_.restart(); }

 private:
  static constexpr size_t kFront = 64;
  static void release(void* data);
  PeakCounter count_;
};

inline CountingAllocator& counter() {
  static auto* allocator = [] {
    auto* made = new CountingAllocator;  // tensors may outlive every scope
    c10::SetCPUAllocator(made, 255);
    return made;
  }();
  return *allocator;
}

inline void CountingAllocator::release(void* data) {
  if (!data) return;
  std::byte* block = static_cast<std::byte*>(data) - kFront;
  size_t bytes = 0;
  std::memcpy(&bytes, block, sizeof bytes);
  counter().count_.add(-static_cast<int64_t>(bytes));
  c10::free_cpu(block);
}

}  // namespace ponte
