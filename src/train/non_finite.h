// What to say when a number is no number: the step, the samples and the parameters it was first seen in. Costs nothing until it happens.
#pragma once
#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "train/run.h"

namespace ponte {

[[noreturn]] void report_non_finite_loss(Run& run, const MicroBatch& micro, const at::Tensor& token_losses_BT);
// Runs the step's micro-batches again, one at a time, to find those whose gradients are not finite.
[[noreturn]] void report_non_finite_gradients(Run& run, const std::vector<MicroBatch>& micro_batches, const std::vector<std::string>& parameters);

}  // namespace ponte
