// One optimizer step over all of a device's tensors in ATen's multi-tensor kernels: a handful of launches, whatever the number of parameters. The update is
// that of adam_kernel.h; on a processor, whose vector code there is exact and faster, only tests come here.
#pragma once
#include <ATen/core/Tensor.h>

#include <vector>

#include "optim/adam_kernel.h"

namespace ponte {

// The tensors of one weight decay class, side by side: fp32 (fp64), all on one device.
struct FusedTensors {
  std::vector<at::Tensor> params, gradients, exp_avgs, exp_avg_sqs;
};
// Updates in place; the gradients are left multiplied by gradient_scale. `steps`: updates counting this one. The bias corrections of `scalars` are not read.
void fused_adam_update(const FusedTensors& tensors, const AdamScalars& scalars, int64_t steps);

// Norm of each tensor, and how many of its elements are zero, in host memory: the one time a step waits for its device.
struct Measured {
  std::vector<double> norms;
  std::vector<int64_t> zeros;  // empty unless wanted
};
enum class CountZeros { yes, no };
Measured measure_on_device(const std::vector<at::Tensor>& tensors, CountZeros zeros);

}  // namespace ponte
