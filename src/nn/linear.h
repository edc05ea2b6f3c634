// A linear layer on one rank's shard. Gradients of the weight are added straight to its main_grad, in fp32, so that accumulation over micro-batches
// neither rounds nor copies. Where the layer stands in tensor parallelism is its caller's TensorRegion.
#pragma once
#include "nn/parameter.h"

namespace ponte {

struct Linear {
  Parameter* weight = nullptr;  // [O, I]
  Parameter* bias = nullptr;    // [O]
  // x_SI -> y_SO
  at::Tensor operator()(const at::Tensor& x_SI) const;
};

}  // namespace ponte
