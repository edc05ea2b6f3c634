// The output gate of gated attention: y = out * sigmoid(gate), the gates lying in the packed projection after each group's queries. Source:
// transformers' Qwen3NextAttention.
#pragma once
#include "kernels/split_qkv.h"

namespace ponte {

// out_SV: [B*T, heads * head_dim].
at::Tensor gate_heads(const at::Tensor& out_SV, const at::Tensor& qkv_SW, const HeadLayout& layout);
// Returns dout; writes the gates' part of dqkv_SW.
at::Tensor gate_heads_backward(const at::Tensor& dy_SV, const at::Tensor& out_SV, const at::Tensor& qkv_SW, const HeadLayout& layout, at::Tensor& dqkv_SW);

at::Tensor gate_heads_reference(const at::Tensor& out_SV, const at::Tensor& qkv_SW, const HeadLayout& layout);
at::Tensor gate_heads_backward_reference(const at::Tensor& dy_SV, const at::Tensor& out_SV, const at::Tensor& qkv_SW, const HeadLayout& layout,
                                         at::Tensor& dqkv_SW);

}  // namespace ponte
