// The gated feed-forward of a dense layer: fc2(silu(gate) * up), gate and up packed in fc1.
#pragma once
#include "comm/region.h"
#include "nn/linear.h"

namespace ponte {

struct GatedMlp {
  Linear linear_fc1, linear_fc2;
  TensorRegion region;
  at::Tensor operator()(const at::Tensor& x_SH) const;
};

}  // namespace ponte
