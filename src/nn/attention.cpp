#include "nn/attention.h"

#include <ATen/ops/cat.h>
#include <torch/csrc/autograd/custom_function.h>

#include "base/errors.h"
#include "nn/parameters.h"

namespace ponte {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

QkvInputs qkv_inputs(const SelfAttention& layer, const Sequence& sequence) {
  const auto value = [](const Parameter* p) { return p ? p->value.detach() : at::Tensor(); };
  return {layer.layout, sequence.B, sequence.T, value(layer.q_layernorm), value(layer.k_layernorm), layer.norm.epsilon, layer.norm.offset,
          sequence.angles.cos_SR, sequence.angles.sin_SR};
}

// Head norms, rotation and attention as one node: nothing but the packed projection, the heads and the log sums stay for backward.
struct CoreFunction : torch::autograd::Function<CoreFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& qkv_SW, const SelfAttention* layer, const Sequence& sequence) {
    const QkvInputs in = qkv_inputs(*layer, sequence);
    const QkvResult heads = split_qkv(qkv_SW, in);
    const TokenView tokens{in.B, in.T, sequence.document_starts_BT, layer->window};
    const AttentionResult result = layer->attend->forward(heads.q_BNTD, heads.k_BGTD, heads.v_BGTD, tokens, layer->scale);
    context->save_for_backward({qkv_SW, heads.q_BNTD, heads.k_BGTD, heads.v_BGTD, heads.rstd, result.out_BTND, result.log_sum_BNT, in.cos_SR, in.sin_SR,
                                sequence.document_starts_BT});
    context->saved_data["layer"] = reinterpret_cast<int64_t>(layer);
    const at::Tensor out_SV = result.out_BTND.view({in.B * in.T, -1});
    return layer->layout.gate == OutputGate::none ? out_SV : gate_heads(out_SV, qkv_SW, layer->layout);
  }
  static variable_list backward(AutogradContext* context, variable_list dout) {
    const auto s = context->get_saved_variables();
    const auto& layer = *reinterpret_cast<const SelfAttention*>(context->saved_data["layer"].toInt());
    const int64_t B = s[1].size(0), T = s[1].size(2);
    const bool gated = layer.layout.gate != OutputGate::none;
    at::Tensor dqkv_SW = at::empty_like(s[0], at::MemoryFormat::Contiguous);
    if (gated) dout[0] = gate_heads_backward(dout[0], s[5].view({B * T, -1}), s[0], layer.layout, dqkv_SW);
    const auto d = layer.attend->backward(dout[0].reshape(s[5].sizes()), s[1], s[2], s[3], {s[5], s[6]}, {B, T, s[9], layer.window}, layer.scale);
    const QkvInputs in = qkv_inputs(layer, {B, T, {s[7], s[8]}, {}});
    const auto gradient = [](Parameter* p) { return p && p->value.requires_grad() ? gradient_of(*p) : at::Tensor(); };
    at::Tensor query_gradient = gradient(layer.q_layernorm), key_gradient = gradient(layer.k_layernorm);
    split_qkv_backward(s[0], in, d.dq_BNTD, d.dk_BGSD, d.dv_BGSD, s[4], dqkv_SW, query_gradient, key_gradient);
    return {dqkv_SW, at::Tensor(), at::Tensor()};
  }
};

}  // namespace

HeadLayout head_layout(const Parameter& packed_projection, const ModelConfig& config) {
  const int64_t D = config.kv_channels, per_group = config.num_attention_heads / config.num_query_groups;
  const int64_t heads = packed_projection.slice.shape[0] / D, kinds = config.attention_output_gate ? 2 : 1;  // a gate beside each query
  const OutputGate gate = config.attention_output_gate ? OutputGate::per_head : OutputGate::none;
  PONTE_ASSERT(packed_projection.slice.shape[0] % D == 0 && packed_projection.slice.segments.size() == 1);
  // More ranks than query groups: some of one group's queries, and its whole key and value.
  if (packed_projection.slice.segments[0].intervals.size() > 1) return {1, (heads - 2) / kinds, D, gate};
  return {heads / (kinds * per_group + 2), per_group, D, gate};
}

at::Tensor SelfAttention::core(const at::Tensor& qkv_SW, const Sequence& sequence) const { return CoreFunction::apply(qkv_SW, this, sequence); }

at::Tensor SelfAttention::project(const at::Tensor& x_SH) const {
  const at::Tensor qkv_SW = linear_qkv(region.enter(x_SH));
  if (!query_norm) return qkv_SW;
  const int64_t S = qkv_SW.size(0), R = layout.queries_per_group;
  const at::Tensor qkv_SGHD = qkv_SW.view({S, layout.groups, layout.group_heads(), layout.head_dim});
  const auto normed = [&](const RmsNorm& norm, int64_t first, int64_t count) {
    const at::Tensor part = qkv_SGHD.narrow(2, first, count);
    return norm(part.reshape({S, -1})).view(part.sizes());
  };
  return at::cat({normed(*query_norm, 0, R), normed(*key_norm, R, 1), qkv_SGHD.narrow(2, R + 1, 1)}, 2).view({S, -1});
}
at::Tensor SelfAttention::finish(const at::Tensor& core_SV) const { return region.leave(linear_proj(core_SV)); }

}  // namespace ponte
