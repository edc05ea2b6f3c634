// RMSNorm of each head with an output gate: y = (offset + w) * x / sqrt(mean(x^2) + epsilon) * silu(z). Source: transformers' Qwen3NextRMSNormGated.
#pragma once
#include "kernels/rms_norm.h"

namespace ponte {

struct GatedNormResult {
  at::Tensor y_SV, rstd_SN;  // rstd fp32 (fp64 for fp64)
};
// x_SV: heads of D = weight's length next to each other; z_SV: the same, rows any distance apart.
GatedNormResult gated_rms_norm(const at::Tensor& x_SV, const at::Tensor& z_SV, const at::Tensor& weight_D, const NormOptions& options);
// Returns dx, writes dz_SV (rows any distance apart), adds the weight's gradient to `gradient_D` (undefined: not wanted).
at::Tensor gated_rms_norm_backward(const at::Tensor& dy_SV, const at::Tensor& x_SV, const at::Tensor& z_SV, const at::Tensor& weight_D,
                                   const at::Tensor& rstd_SN, const NormOptions& options, at::Tensor dz_SV, at::Tensor& gradient_D);

GatedNormResult gated_rms_norm_reference(const at::Tensor& x_SV, const at::Tensor& z_SV, const at::Tensor& weight_D, const NormOptions& options);
at::Tensor gated_rms_norm_backward_reference(const at::Tensor& dy_SV, const at::Tensor& x_SV, const at::Tensor& z_SV, const at::Tensor& weight_D,
                                             const at::Tensor& rstd_SN, const NormOptions& options, at::Tensor dz_SV, at::Tensor& gradient_D);

}  // namespace ponte
