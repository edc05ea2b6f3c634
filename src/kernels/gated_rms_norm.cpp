#include "kernels/gated_rms_norm.h"

#include <ATen/ATen.h>

#include "kernels/dispatch.h"

namespace ponte {

GatedNormResult gated_rms_norm_reference(const at::Tensor& x_SV, const at::Tensor& z_SV, const at::Tensor& weight_D, const NormOptions& options) {
  const auto wide = accumulation_type(x_SV);
  const auto normed = rms_norm_reference(x_SV.to(wide).reshape({-1, weight_D.size(0)}), weight_D.to(wide), options);
  const at::Tensor y = normed.y_SH.view(x_SV.sizes()) * at::silu(z_SV.to(wide));
  return {y.to(x_SV.scalar_type()), normed.rstd_S.view({x_SV.size(0), -1})};
}

at::Tensor gated_rms_norm_backward_reference(const at::Tensor& dy_SV, const at::Tensor& x_SV, const at::Tensor& z_SV, const at::Tensor& weight_D,
                                             const at::Tensor& rstd_SN, const NormOptions& options, at::Tensor dz_SV, at::Tensor& gradient_D) {
  const auto wide = accumulation_type(x_SV);
  const int64_t D = weight_D.size(0);
  const auto by_head = [&](const at::Tensor& t) { return t.to(wide).reshape({-1, D}); };
  const at::Tensor z = by_head(z_SV), x = by_head(x_SV), dy = by_head(dy_SV), sigmoid = at::sigmoid(z), rstd = rstd_SN.reshape({-1});
  const at::Tensor normed = x * rstd.unsqueeze(-1) * (weight_D.to(wide) + options.offset);
  dz_SV.copy_((dy * normed * sigmoid * (1 + z * (1 - sigmoid))).view(x_SV.sizes()));
  return rms_norm_backward_reference(dy * z * sigmoid, x, weight_D.to(wide), rstd, options, gradient_D).view(x_SV.sizes()).to(x_SV.scalar_type());
}

GatedNormResult gated_rms_norm(const at::Tensor& x_SV, const at::Tensor& z_SV, const at::Tensor& weight_D, const NormOptions& options) {
  if (!has_vector_path(x_SV) || z_SV.stride(1) != 1) return gated_rms_norm_reference(x_SV, z_SV, weight_D, options);
  const at::Tensor x = x_SV.contiguous();
  const int64_t D = weight_D.size(0), heads = x.size(1) / D, width = x.size(1);
  GatedNormResult result{at::empty_like(x), at::empty({x.size(0), heads}, x.options().dtype(at::kFloat))};
  with_vector_type(x, [&]<class T>(T) {
    for_ranges(x.size(0), [&](int64_t, int64_t begin, int64_t end) {
      vector_kernels<T>().gated_rms_norm(end - begin, heads, D, pointer<T>(x) + begin * width, pointer<T>(z_SV) + begin * z_SV.stride(0), z_SV.stride(0),
                                         pointer<T>(weight_D), static_cast<float>(options.epsilon), static_cast<float>(options.offset),
                                         pointer<T>(result.y_SV) + begin * width, pointer<float>(result.rstd_SN) + begin * heads);
    });
  });
  return result;
}

at::Tensor gated_rms_norm_backward(const at::Tensor& dy_SV, const at::Tensor& x_SV, const at::Tensor& z_SV, const at::Tensor& weight_D,
                                   const at::Tensor& rstd_SN, const NormOptions& options, at::Tensor dz_SV, at::Tensor& gradient_D) {
  if (!has_vector_path(x_SV) || z_SV.stride(1) != 1 || dz_SV.stride(1) != 1)
    return gated_rms_norm_backward_reference(dy_SV, x_SV, z_SV, weight_D, rstd_SN, options, dz_SV, gradient_D);
  const at::Tensor dy = dy_SV.contiguous(), x = x_SV.contiguous();
  at::Tensor dx = at::empty_like(x);
  const int64_t D = weight_D.size(0), width = x.size(1), heads = width / D;
  at::Tensor partial = at::zeros({kRanges, D}, x.options().dtype(at::kFloat));
  with_vector_type(x, [&]<class T>(T) {
    for_ranges(x.size(0), [&](int64_t range, int64_t begin, int64_t end) {
      vector_kernels<T>().gated_rms_norm_backward(end - begin, heads, D, pointer<T>(dy) + begin * width, pointer<T>(x) + begin * width,
                                                  pointer<T>(z_SV) + begin * z_SV.stride(0), z_SV.stride(0), pointer<T>(weight_D),
                                                  static_cast<float>(options.offset), pointer<float>(rstd_SN) + begin * heads, pointer<T>(dx) + begin * width,
                                                  pointer<T>(dz_SV) + begin * dz_SV.stride(0), dz_SV.stride(0), pointer<float>(partial) + range * D);
    });
  });
  if (gradient_D.defined()) gradient_D.add_(partial.sum(0));
  return dx;
}

}  // namespace ponte
