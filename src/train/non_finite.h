// What to say when a number is no number: the step, the samples and the parameters it was first seen in. Costs nothing until it happens.
#pragma once
#include <ATen/core/Tensor.h>

#include <optional>
#include <string>
#include <vector>

#include "train/run.h"

namespace ponte {

// A micro-batch of this rank whose loss is not finite.
struct NonFiniteLoss {
  size_t micro_batch;
  at::Tensor token_losses_BT;
};

// Both on every rank at once. `mine`: what this rank saw of it, if anything.
[[noreturn]] void report_non_finite_loss(Run& run, const std::vector<MicroBatch>& micro_batches, const std::optional<NonFiniteLoss>& mine);
// With one rank, runs the step's micro-batches again, one at a time, to find those whose gradients are not finite.
[[noreturn]] void report_non_finite_gradients(Run& run, const std::vector<MicroBatch>& micro_batches, const std::vector<std::string>& parameters);

}  // namespace ponte
