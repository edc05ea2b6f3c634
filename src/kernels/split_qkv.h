// From a packed projection to what attention takes: optional RMSNorm of each query and key head, rotary embedding (Su et al. 2021, halves rotated as
// in transformers), and the split into heads. One pass over the data each way.
#pragma once
#include <ATen/core/Tensor.h>

namespace ponte {

enum class OutputGate { none, per_head };  // gated attention: a gate as wide as each query head (kernels/gate_heads.h)

// A packed row holds, for each of `groups` key/value heads: its query heads, their gates where there are any, the key, the value.
struct HeadLayout {
  int64_t groups, queries_per_group, head_dim;
  OutputGate gate = OutputGate::none;
  int64_t heads() const { return groups * queries_per_group; }
  int64_t gates() const { return gate == OutputGate::per_head ? queries_per_group : 0; }  // of a group
  int64_t group_heads() const { return queries_per_group + gates() + 2; }
};

struct QkvInputs {
  HeadLayout layout;
  int64_t B, T;
  at::Tensor query_norm_D, key_norm_D;  // undefined: no norm
  double epsilon = 0, offset = 0;       // of the norms
  at::Tensor cos_SR, sin_SR;            // fp32 (fp64 for fp64) [B*T, rotary dims / 2]
};

struct QkvResult {
  at::Tensor q_BNTD, k_BGTD, v_BGTD;
  at::Tensor rstd;                      // fp32 [S, groups * (queries_per_group + 1)]; undefined without norms
};
QkvResult split_qkv(const at::Tensor& qkv_SW, const QkvInputs& inputs);
// Writes dqkv_SW, all but the gates' part; adds the norm weights' gradients (fp32) where given.
void split_qkv_backward(const at::Tensor& qkv_SW, const QkvInputs& inputs, const at::Tensor& dq_BNTD, const at::Tensor& dk_BGTD, const at::Tensor& dv_BGTD,
                        const at::Tensor& rstd, at::Tensor& dqkv_SW, at::Tensor& query_gradient_D, at::Tensor& key_gradient_D);

QkvResult split_qkv_reference(const at::Tensor& qkv_SW, const QkvInputs& inputs);
// Returns dqkv, zeros in the gates' part.
at::Tensor split_qkv_backward_reference(const at::Tensor& qkv_SW, const QkvInputs& inputs, const at::Tensor& dq_BNTD, const at::Tensor& dk_BGTD,
                                        const at::Tensor& dv_BGTD, const at::Tensor& rstd, at::Tensor& query_gradient_D, at::Tensor& key_gradient_D);

}  // namespace ponte
