// RMSNorm (Zhang and Sennrich 2019), as transformers' Qwen3RMSNorm: y = (offset + w) * x / sqrt(mean(x^2) + epsilon), computed in fp32.
#pragma once
#include <ATen/core/Tensor.h>

namespace ponte {

struct NormOptions {
  double epsilon;
  double offset = 0;  // 1: the stored weight is centred on zero
};

struct RmsNormResult {
  at::Tensor y_SH, rstd_S;
};
RmsNormResult rms_norm(const at::Tensor& x_SH, const at::Tensor& weight_H, const NormOptions& options);
// Returns dx; adds the weight's gradient to `gradient_H` (fp32, or fp64 for fp64; undefined: not wanted).
at::Tensor rms_norm_backward(const at::Tensor& dy_SH, const at::Tensor& x_SH, const at::Tensor& weight_H, const at::Tensor& rstd_S,
                             const NormOptions& options, at::Tensor& gradient_H);

// The definitions, in plain ATen on any device and type; what the fast paths are tested against.
RmsNormResult rms_norm_reference(const at::Tensor& x_SH, const at::Tensor& weight_H, const NormOptions& options);
at::Tensor rms_norm_backward_reference(const at::Tensor& dy_SH, const at::Tensor& x_SH, const at::Tensor& weight_H, const at::Tensor& rstd_S,
                                       const NormOptions& options, at::Tensor& gradient_H);

}  // namespace ponte
