// Which device a process computes on, chosen in one place, and how tensors travel between it and host memory. Everything here goes through LibTorch's
// own dispatch, so the same program runs with a LibTorch for processors and one for CUDA.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstddef>
#include <functional>
#include <span>
#include <string>

namespace ponte {

// wanted: "auto" (CUDA when LibTorch sees a card), "cpu", "cuda" or "cuda:N". On a machine with several cards each of its ranks takes the one of its
// number; that card is this thread's current device from here on. UserError when there is no such card, or for any other word.
at::Device choose_device(const std::string& wanted, int64_t local_rank = 0);

// Returns when the device has done all work given to it; a processor always has.
void wait_for_device(const at::Device& device);

// Host memory through which files reach a device, `bytes` at a time (or one row, where a row is larger): pinned where the device copies faster from
// pinned memory. Tensors in host memory are written in place. For one thread at a time.
class StagingBuffer {
 public:
  explicit StagingBuffer(size_t bytes) : room_(bytes) {}

  // Fills `to` (contiguous, on any device, one dim at least): fill(first, rows, out) writes these rows of dim 0, row-major and of type `type`, which may be
  // narrower than `to`'s.
  using Fill = std::function<void(int64_t first, int64_t rows, std::span<std::byte> out)>;
  void fill(const at::Tensor& to, at::ScalarType type, const Fill& fill);

 private:
  size_t room_;
  at::Tensor bytes_;
};

// body(i, buffer) for every i in [0, n): one after another for a processor, whose memory the body fills itself; for a device on a few threads with a
// buffer each, so that reading one tensor and copying another go on together.
void for_each_staged(int64_t n, const at::Device& device, const std::function<void(int64_t, StagingBuffer&)>& body);

// The tensor in host memory: itself when it lies there. This waits for the device. A meta tensor has no values to wait for: zeros.
at::Tensor in_host_memory(const at::Tensor& tensor);

}  // namespace ponte
