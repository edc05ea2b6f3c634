// The gated delta rule of linear attention (Yang, Kautz, Hatamizadeh 2024, arXiv:2412.06464), as transformers' modeling_qwen3_next.py: with q and k
// of length one (q times D^-1/2 besides), log decay g = -exp(A_log) softplus(alpha + dt_bias) and b = sigmoid(beta),
//   S <- exp(g) S;   S <- S + k (b (v - S^T k))^T;   out = S^T q
// for each value head; consecutive value heads share a key head. State and arithmetic are fp32 (fp64 for fp64). CPU: in chunks, with a backward of its own;
// elsewhere kernels/gated_delta_chunked.h.
#pragma once
#include <ATen/core/Tensor.h>

namespace ponte {

// B batch, T tokens, S = B * T, K key heads, N value heads (a multiple of K), D key dim, V value dim, C = 2 K D + N V channels.
struct GatedDeltaInputs {
  int64_t B, T, key_heads, D, V;
  at::Tensor qkv_SC;              // contiguous rows: queries, keys, values, each head by head
  at::Tensor beta_SN, alpha_SN;   // rows any distance apart; fp32, bf16, fp16 or fp64 as qkv
  at::Tensor A_log_N, dt_bias_N;
  at::Tensor document_starts_BT;  // int64, index of the document's first token, below zero: it began before these; undefined: one document per row
  at::Tensor state_BNDV;          // fp32 (fp64), what the first token finds; undefined: zeros
  int64_t value_heads() const { return A_log_N.size(0); }
};

struct GatedDeltaResult {
  at::Tensor out_SV;              // [S, N V]
  at::Tensor state_BNDV;          // after the last token
};
GatedDeltaResult gated_delta(const GatedDeltaInputs& inputs);

// The first three are written, the next two added to where defined (fp32, fp64 for fp64). Strides of dbeta and dalpha agree.
struct GatedDeltaGradients {
  at::Tensor dqkv_SC, dbeta_SN, dalpha_SN, dA_log_N, ddt_bias_N;
  at::Tensor dstate_BNDV;  // in: of the state after the last token; out: of the first token's. Contiguous, fp32 (fp64); undefined: zero, and not wanted
};
// Memory besides the gradients: the states of one key head per thread, one for every 64 tokens.
void gated_delta_backward(const at::Tensor& dout_SV, const GatedDeltaInputs& inputs, GatedDeltaGradients& gradients);

// The definition, token by token in ATen; differentiable.
GatedDeltaResult gated_delta_reference(const GatedDeltaInputs& inputs);

}  // namespace ponte
