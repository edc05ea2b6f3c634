// Attention of a CUDA card through ATen's fused kernels: FlashAttention (Dao 2023), which takes windows, packed documents and continuation of a cache, and
// cuDNN's, which ATen prefers for plain causal rows on some cards. bf16 and fp16, heads up to 256 wide; the same results as kernels/attention.h defines.
#pragma once
#include <string_view>

#include "kernels/attention.h"

namespace ponte {

enum class FusedAttention { none, flash, cudnn };
std::string_view name(FusedAttention kernel);  // for the log and the benchmarks

// Which kernel runs for these inputs; none: their shape, type, device or ranges are not a fused kernel's.
FusedAttention fused_attention_for(const at::Tensor& q_BNTD, const at::Tensor& k_BGSD, const at::Tensor& v_BGSD, const KeyRanges& ranges, double scale);

// Shapes as in kernels/attention.h. `ranges` must be causal (KeyRanges::causal); cuDNN: without window and documents, T = S.
AttentionResult flash_attention(const at::Tensor& q_BNTD, const at::Tensor& k_BGSD, const at::Tensor& v_BGSD, const KeyRanges& ranges, double scale);
AttentionGradients flash_attention_backward(const at::Tensor& dout_BTND, const at::Tensor& q_BNTD, const at::Tensor& k_BGSD, const at::Tensor& v_BGSD,
                                            const AttentionResult& forward, const KeyRanges& ranges, double scale);
AttentionResult cudnn_attention(const at::Tensor& q_BNTD, const at::Tensor& k_BGSD, const at::Tensor& v_BGSD, double scale);
AttentionGradients cudnn_attention_backward(const at::Tensor& dout_BTND, const at::Tensor& q_BNTD, const at::Tensor& k_BGSD, const at::Tensor& v_BGSD,
                                            const AttentionResult& forward, double scale);

}  // namespace ponte
