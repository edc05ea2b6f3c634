// The short causal convolution of a gated delta net, each channel for itself, with SiLU: y[t] = silu(sum over w of weight[w] * x[t - (W - 1) + w]).
// Source: transformers' modeling_qwen3_next.py (conv1d). Taps before a token's document are zero.
#pragma once
#include <ATen/core/Tensor.h>

namespace ponte {

struct ConvolutionInputs {
  int64_t B, T;
  at::Tensor x_SC;                // channels next to each other, rows any distance apart
  at::Tensor weight_C1W;
  at::Tensor document_starts_BT;  // int64, index of the document's first token; undefined: one document per row
  at::Tensor history_BHC;         // [B, W - 1, C]: the inputs before the first; undefined: zeros
};

at::Tensor causal_conv1d(const ConvolutionInputs& inputs);
// Writes dx_SC (rows any distance apart), adds to dweight_C1W (fp32, fp64 for fp64; undefined: not wanted).
void causal_conv1d_backward(const at::Tensor& dy_SC, const ConvolutionInputs& inputs, at::Tensor dx_SC, at::Tensor& dweight_C1W);

at::Tensor causal_conv1d_reference(const ConvolutionInputs& inputs);
void causal_conv1d_backward_reference(const at::Tensor& dy_SC, const ConvolutionInputs& inputs, at::Tensor dx_SC, at::Tensor& dweight_C1W);

}  // namespace ponte
