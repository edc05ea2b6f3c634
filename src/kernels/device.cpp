#include "kernels/device.h"

#include <ATen/ATen.h>
#include <ATen/DeviceAccelerator.h>

#include <algorithm>
#include <charconv>
#include <mutex>
#include <vector>

#include "base/errors.h"
#include "base/parallel.h"

namespace ponte {
namespace {

int64_t cards() { return at::hasCUDA() ? at::accelerator::deviceCount() : 0; }

// The number behind "cuda:"; nullopt for any other word.
std::optional<int64_t> card_of(const std::string& wanted) {
  constexpr std::string_view kPrefix = "cuda:";
  int64_t card = 0;
  if (!wanted.starts_with(kPrefix)) return std::nullopt;
  const char *begin = wanted.data() + kPrefix.size(), *end = wanted.data() + wanted.size();
  const auto [stop, error] = std::from_chars(begin, end, card);
  if (error != std::errc() || stop != end) return std::nullopt;
  return card;
}

}  // namespace

at::Device choose_device(const std::string& wanted, int64_t local_rank) {
  const std::optional<int64_t> named = card_of(wanted);
  require(wanted == "auto" || wanted == "cpu" || wanted == "cuda" || named, "device: '{}' found; auto, cpu, cuda or cuda:N wanted", wanted);
  if (wanted == "cpu" || (wanted == "auto" && cards() == 0)) return at::kCPU;
  require(cards() > 0, "device: {} wanted, but this torch sees no CUDA device; see ponte doctor", wanted);
  // A launcher that gives each rank a card of its own shows it as the only one.
  const int64_t card = named ? *named : cards() == 1 ? 0 : local_rank;
  require(card >= 0 && card < cards(), "device: card {} wanted for local rank {}, this machine has {}", card, local_rank, cards());
  at::accelerator::setDeviceIndex(static_cast<at::DeviceIndex>(card));
  return {at::kCUDA, static_cast<at::DeviceIndex>(card)};
}

void wait_for_device(const at::Device& device) {
  if (device.is_cuda()) at::accelerator::synchronizeDevice(device.index());
}

void StagingBuffer::fill(const at::Tensor& to, at::ScalarType type, const Fill& fill) {
  PONTE_ASSERT(to.is_contiguous() && to.dim() >= 1);
  const int64_t rows = to.size(0);
  if (to.device().is_cpu() && to.scalar_type() == type) return fill(0, rows, {static_cast<std::byte*>(to.data_ptr()), to.nbytes()});
  if (to.numel() == 0) return;
  const size_t row = static_cast<size_t>(to.numel() / rows) * c10::elementSize(type);
  if (!bytes_.defined() || bytes_.nbytes() < row)
    bytes_ = at::empty({static_cast<int64_t>(std::max(room_, row))}, at::TensorOptions(at::kByte).pinned_memory(to.is_cuda()));
  const auto piece = static_cast<int64_t>(bytes_.nbytes() / row);
  for (int64_t first = 0; first < rows; first += piece) {
    const int64_t n = std::min(piece, rows - first);
    const auto length = static_cast<int64_t>(row) * n;
    fill(first, n, {static_cast<std::byte*>(bytes_.data_ptr()), static_cast<size_t>(length)});
    std::vector<int64_t> shape = to.sizes().vec();
    shape[0] = n;
    to.narrow(0, first, n).copy_(bytes_.narrow(0, 0, length).view(type).view(shape));  // ends before the buffer is written again
  }
}

void for_each_staged(int64_t n, const at::Device& device, const std::function<void(int64_t, StagingBuffer&)>& body) {
  constexpr size_t kBytes = 64 << 20;
  constexpr int64_t kThreads = 4;
  if (device.is_cpu()) {
    StagingBuffer none(kBytes);
    for (int64_t i = 0; i < n; ++i) body(i, none);
    return;
  }
  std::mutex mutex;
  std::vector<StagingBuffer> idle(kThreads, StagingBuffer(kBytes));
  parallel_for(n, kThreads, [&](int64_t i) {
    const at::NoGradGuard off;
    std::unique_lock lock(mutex);
    StagingBuffer own = std::move(idle.back());
    idle.pop_back();
    lock.unlock();
    body(i, own);
    lock.lock();
    idle.push_back(std::move(own));
  });
}

at::Tensor in_host_memory(const at::Tensor& tensor) {
  return tensor.is_meta() ? at::zeros(tensor.sizes(), tensor.options().device(at::kCPU)) : tensor.to(at::kCPU);
}

}  // namespace ponte
