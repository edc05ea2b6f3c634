#include "kernels/rms_norm.h"

#include "kernels/dispatch.h"

namespace ponte {

RmsNormResult rms_norm_reference(const at::Tensor& x_SH, const at::Tensor& weight_H, const NormOptions& options) {
  const auto wide = accumulation_type(x_SH);
  const at::Tensor x = x_SH.to(wide);
  const at::Tensor rstd_S = at::rsqrt(x.square().mean(-1) + options.epsilon);
  return {((weight_H.to(wide) + options.offset) * (x * rstd_S.unsqueeze(-1))).to(x_SH.scalar_type()), rstd_S};
}

at::Tensor rms_norm_backward_reference(const at::Tensor& dy_SH, const at::Tensor& x_SH, const at::Tensor& weight_H, const at::Tensor& rstd_S,
                                       const NormOptions& options, at::Tensor& gradient_H) {
  const auto wide = accumulation_type(x_SH);
  const at::Tensor dy = dy_SH.to(wide), normed = x_SH.to(wide) * rstd_S.unsqueeze(-1), g = dy * (weight_H.to(wide) + options.offset);
  if (gradient_H.defined()) gradient_H.add_((dy * normed).sum(0));
  return (rstd_S.unsqueeze(-1) * (g - normed * (g * normed).mean(-1, true))).to(x_SH.scalar_type());
}

namespace {

// ATen's fused kernels of CUDA: one pass, fp32 inside. They know no offset, and adding it in a half type would round the weight.
bool fused_path(const at::Tensor& x_SH, const at::Tensor& weight_H, const NormOptions& options) {
  return has_card_path(x_SH) && x_SH.scalar_type() != at::kDouble && x_SH.scalar_type() == weight_H.scalar_type() && options.offset == 0;
}

}  // namespace

RmsNormResult rms_norm(const at::Tensor& x_SH, const at::Tensor& weight_H, const NormOptions& options) {
  if (fused_path(x_SH, weight_H, options)) {
    auto [y_SH, rstd_S1] = at::_fused_rms_norm(x_SH, weight_H.sizes(), weight_H, options.epsilon);
    return {y_SH, rstd_S1.view({-1})};
  }
  if (!has_vector_path(x_SH)) return rms_norm_reference(x_SH, weight_H, options);
  const at::Tensor x = x_SH.contiguous();
  RmsNormResult result{at::empty_like(x), at::empty({x.size(0)}, x.options().dtype(at::kFloat))};
  const int64_t H = x.size(1);
  with_vector_type(x, [&]<class T>(T) {
    for_ranges(x.size(0), [&](int64_t, int64_t begin, int64_t end) {
      vector_kernels<T>().rms_norm(end - begin, H, pointer<T>(x) + begin * H, pointer<T>(weight_H), static_cast<float>(options.epsilon),
                                   static_cast<float>(options.offset), pointer<T>(result.y_SH) + begin * H, pointer<float>(result.rstd_S) + begin);
    });
  });
  return result;
}

at::Tensor rms_norm_backward(const at::Tensor& dy_SH, const at::Tensor& x_SH, const at::Tensor& weight_H, const at::Tensor& rstd_S,
                             const NormOptions& options, at::Tensor& gradient_H) {
  if (fused_path(x_SH, weight_H, options)) {
    const auto [dx_SH, dweight_H] = at::_fused_rms_norm_backward(dy_SH, x_SH, weight_H.sizes(), rstd_S.unsqueeze(-1), weight_H,
                                                                 {true, gradient_H.defined()});
    if (gradient_H.defined()) gradient_H.add_(dweight_H);
    return dx_SH;
  }
  if (!has_vector_path(x_SH)) return rms_norm_backward_reference(dy_SH, x_SH, weight_H, rstd_S, options, gradient_H);
  const at::Tensor dy = dy_SH.contiguous(), x = x_SH.contiguous();
  at::Tensor dx = at::empty_like(x);
  const int64_t H = x.size(1);
  at::Tensor partial = at::zeros({kRanges, H}, x.options().dtype(at::kFloat));
  with_vector_type(x, [&]<class T>(T) {
    for_ranges(x.size(0), [&](int64_t range, int64_t begin, int64_t end) {
      vector_kernels<T>().rms_norm_backward(end - begin, H, pointer<T>(dy) + begin * H, pointer<T>(x) + begin * H, pointer<T>(weight_H),
                                            static_cast<float>(options.offset), pointer<float>(rstd_S) + begin, pointer<T>(dx) + begin * H,
                                            pointer<float>(partial) + range * H);
    });
  });
  if (gradient_H.defined()) gradient_H.add_(partial.sum(0));
  return dx;
}

}  // namespace ponte
