// Causal attention with grouped query heads. Each query sees one interval of keys, which covers causality, sliding windows, packed documents and
// continuation of a cache. CPU: flash attention on vector.h's tiles; CUDA: kernels/fused_attention.h; elsewhere the definition in ATen.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

namespace ponte {

// Per query, the keys [first, last) it sees; int64 [B, T], neither ever decreasing along T; CPU tensors.
struct KeyRanges {
  at::Tensor first_BT, last_BT;
  // The same in words, where they are causal_ranges'. causal: query t of T stands at key S - T + t of S.
  bool causal = false;
  std::optional<int64_t> window = {};
  at::Tensor document_starts_BT = {};  // in host memory
};
// Query t of row b stands at key position past + t and sees keys up to itself; no further back than `window` keys, nor before its document's start
// (document_starts_BT: int64, index of the document's first token; undefined: one document).
KeyRanges causal_ranges(int64_t B, int64_t T, int64_t past, std::optional<int64_t> window, const at::Tensor& document_starts_BT);

struct AttentionResult {
  at::Tensor out_BTND;    // contiguous
  at::Tensor log_sum_BNT; // fp32 (fp64 for fp64): log of each softmax's denominator
};
// q [B, N, T, D], k and v [B, G, S, D], N a multiple of G. k and v may be views into a larger cache (tokens D apart).
AttentionResult attention(const at::Tensor& q_BNTD, const at::Tensor& k_BGSD, const at::Tensor& v_BGSD, const KeyRanges& ranges, double scale);

struct AttentionGradients {
  at::Tensor dq_BNTD, dk_BGSD, dv_BGSD;
};
AttentionGradients attention_backward(const at::Tensor& dout_BTND, const at::Tensor& q_BNTD, const at::Tensor& k_BGSD, const at::Tensor& v_BGSD,
                                      const AttentionResult& forward, const KeyRanges& ranges, double scale);

AttentionResult attention_reference(const at::Tensor& q_BNTD, const at::Tensor& k_BGSD, const at::Tensor& v_BGSD, const KeyRanges& ranges, double scale);
AttentionGradients attention_backward_reference(const at::Tensor& dout_BTND, const at::Tensor& q_BNTD, const at::Tensor& k_BGSD, const at::Tensor& v_BGSD,
                                                const AttentionResult& forward, const KeyRanges& ranges, double scale);

}  // namespace ponte
