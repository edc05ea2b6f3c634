// RMSNorm as a layer.
#pragma once
#include "kernels/rms_norm.h"
#include "nn/parameter.h"

namespace ponte {

struct RmsNorm {
  Parameter* weight = nullptr;
  NormOptions options;
  at::Tensor operator()(const at::Tensor& x_SH) const;
};

}  // namespace ponte
