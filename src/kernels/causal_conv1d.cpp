#include "kernels/causal_conv1d.h"

#include <ATen/ATen.h>

#include <vector>

#include "base/errors.h"
#include "kernels/dispatch.h"

namespace ponte {
namespace {

// Whether the token `back` places before each is still in its document.
at::Tensor reaches(const ConvolutionInputs& in, int64_t back) {
  const at::Device device = in.x_SC.device();
  const at::Tensor place = at::arange(in.T, at::TensorOptions(device).dtype(at::kLong)) - back;
  return place.ge(in.document_starts_BT.to(device, /*non_blocking=*/true)).unsqueeze(-1);
}

// Per tap, what each token reads: [B, T, C], zero outside its document.
std::vector<at::Tensor> taps(const ConvolutionInputs& in) {
  const auto wide = accumulation_type(in.x_SC);
  const int64_t C = in.x_SC.size(1), W = in.weight_C1W.size(2);
  const at::Tensor x = in.x_SC.to(wide).view({in.B, in.T, C});
  const at::Tensor before = in.history_BHC.defined() ? in.history_BHC.to(wide) : at::zeros({in.B, W - 1, C}, x.options());
  const at::Tensor padded = at::cat({before, x}, 1);
  std::vector<at::Tensor> out;
  for (int64_t w = 0; w < W; ++w) {
    at::Tensor tap = padded.narrow(1, w, in.T);
    if (in.document_starts_BT.defined()) tap = tap * reaches(in, W - 1 - w);
    out.push_back(tap);
  }
  return out;
}

at::Tensor before_activation(const ConvolutionInputs& in, const std::vector<at::Tensor>& read) {
  const at::Tensor weight = in.weight_C1W.to(accumulation_type(in.x_SC));
  at::Tensor sum = at::zeros_like(read[0]);
  for (size_t w = 0; w < read.size(); ++w) sum = sum + read[w] * weight.select(2, static_cast<int64_t>(w)).squeeze(1);
  return sum;
}

bool vector_path(const ConvolutionInputs& in) { return has_vector_path(in.x_SC) && in.x_SC.stride(1) == 1; }

// [W, C] in fp32.
at::Tensor by_tap(const at::Tensor& weight_C1W) { return weight_C1W.squeeze(1).t().to(at::kFloat).contiguous(); }

}  // namespace

at::Tensor causal_conv1d_reference(const ConvolutionInputs& in) {
  return at::silu(before_activation(in, taps(in))).view(in.x_SC.sizes()).to(in.x_SC.scalar_type());
}

void causal_conv1d_backward_reference(const at::Tensor& dy_SC, const ConvolutionInputs& in, at::Tensor dx_SC, at::Tensor& dweight_C1W) {
  const auto read = taps(in);
  const at::Tensor sum = before_activation(in, read), sigmoid = at::sigmoid(sum);
  const at::Tensor d = dy_SC.to(sum.scalar_type()).view(sum.sizes()) * sigmoid * (1 + sum * (1 - sigmoid));
  const int64_t W = in.weight_C1W.size(2);
  at::Tensor dx = at::zeros_like(sum);
  for (int64_t w = 0; w < W; ++w) {
    at::Tensor part = d * in.weight_C1W.to(d.scalar_type()).select(2, w).squeeze(1);
    if (dweight_C1W.defined()) dweight_C1W.select(2, w).squeeze(1).add_((d * read[static_cast<size_t>(w)]).sum(at::IntArrayRef({0, 1})));
    const int64_t back = W - 1 - w;
    if (back >= in.T) continue;
    if (in.document_starts_BT.defined()) part = part * reaches(in, back);
    dx.narrow(1, 0, in.T - back).add_(part.narrow(1, back, in.T - back));
  }
  dx_SC.copy_(dx.view(in.x_SC.sizes()));
}

at::Tensor causal_conv1d(const ConvolutionInputs& in) {
  if (!vector_path(in)) return causal_conv1d_reference(in);
  const int64_t C = in.x_SC.size(1), W = in.weight_C1W.size(2), stride = in.x_SC.stride(0);
  const at::Tensor weight = by_tap(in.weight_C1W), history = in.history_BHC.defined() ? in.history_BHC.contiguous() : at::Tensor();
  const int64_t* starts = pointer<const int64_t>(in.document_starts_BT);
  at::Tensor y = at::empty({in.B * in.T, C}, in.x_SC.options());
  with_vector_type(y, [&]<class E>(E) {
    const E *x = pointer<E>(in.x_SC), *before = pointer<E>(history);
    for_ranges(in.B * in.T, [&](int64_t, int64_t begin, int64_t end) {
      std::vector<const E*> rows(static_cast<size_t>(W));
      for (int64_t s = begin; s < end; ++s) {
        const int64_t b = s / in.T, t = s % in.T;
        for (int64_t w = 0; w < W; ++w) {
          const int64_t from = t - (W - 1) + w;
          const E*& row = rows[static_cast<size_t>(w)];
          if (from >= (starts ? starts[s] : 0)) row = x + (b * in.T + from) * stride;
          else row = from < 0 && before ? before + (b * (W - 1) + W - 1 + from) * C : nullptr;
        }
        vector_kernels<E>().convolve(C, W, rows.data(), pointer<float>(weight), pointer<E>(y) + s * C);
      }
    });
  });
  return y;
}

void causal_conv1d_backward(const at::Tensor& dy_SC, const ConvolutionInputs& in, at::Tensor dx_SC, at::Tensor& dweight_C1W) {
  PONTE_ASSERT(!in.history_BHC.defined());
  if (!vector_path(in) || dx_SC.stride(1) != 1) return causal_conv1d_backward_reference(dy_SC, in, dx_SC, dweight_C1W);
  const int64_t C = in.x_SC.size(1), W = in.weight_C1W.size(2), blocks = (C + kConvolutionChannels - 1) / kConvolutionChannels;
  const at::Tensor weight = by_tap(in.weight_C1W), dy = dy_SC.contiguous();
  const int64_t* starts = pointer<const int64_t>(in.document_starts_BT);
  at::Tensor partial = at::zeros({in.B, W, C}, weight.options());
  with_vector_type(dy, [&]<class E>(E) {
    parallel_parts(0, in.B * blocks, 1, [&](int64_t from, int64_t to) {
      std::vector<float> ring(static_cast<size_t>(W * kConvolutionChannels));
      for (int64_t i = from; i < to; ++i) {
        const int64_t b = i / blocks, c = i % blocks * kConvolutionChannels, row = b * in.T;
        vector_kernels<E>().convolve_backward(in.T, std::min(kConvolutionChannels, C - c), W, C, pointer<E>(in.x_SC) + row * in.x_SC.stride(0) + c,
                                              in.x_SC.stride(0), starts ? starts + row : nullptr, pointer<float>(weight) + c, pointer<E>(dy) + row * C + c, C,
                                              pointer<E>(dx_SC) + row * dx_SC.stride(0) + c, dx_SC.stride(0), pointer<float>(partial) + b * W * C + c,
                                              ring.data());
      }
    });
  });
  if (dweight_C1W.defined()) dweight_C1W.add_(partial.sum(0).t().unsqueeze(1));
}

}  // namespace ponte
