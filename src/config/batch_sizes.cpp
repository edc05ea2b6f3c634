#include "config/batch_sizes.h"

#include <algorithm>

namespace ponte {

BatchSizes::BatchSizes(const TrainConfig& config, int64_t replicas)
    : last_(config.global_batch_size), share_(config.micro_batch_size * replicas), ramp_(config.rampup_batch_size),
      decreases_(config.decrease_batch_size_if_needed) {}

int64_t BatchSizes::at(int64_t consumed_samples) const {
  int64_t size = last_;
  if (!ramp_.empty() && consumed_samples <= ramp_[2]) {
    // In Megatron's own arithmetic, so that a size changes after the same step.
    const double samples_per_increment = static_cast<double>(ramp_[2]) / static_cast<double>((last_ - ramp_[0]) / ramp_[1]);
    size = std::min(ramp_[0] + static_cast<int64_t>(static_cast<double>(consumed_samples) / samples_per_increment) * ramp_[1], last_);
  }
  return decreases_ ? size / share_ * share_ : size;
}

std::vector<int64_t> BatchSizes::all(const TrainConfig& config) {
  std::vector<int64_t> out;
  const std::vector<int64_t>& ramp = config.rampup_batch_size;
  for (int64_t size = ramp.empty() ? config.global_batch_size : ramp[0]; size < config.global_batch_size; size += ramp[1]) out.push_back(size);
  out.push_back(config.global_batch_size);
  return out;
}

}  // namespace ponte
