#include "nn/gated_delta_net.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "nn/attention.h"
#include "nn/gated_delta_context.h"
#include "nn/gated_delta_parts.h"
#include "nn/parameters.h"

namespace ponte {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

ConvolutionInputs convolution_inputs(const HeadParameters& p, const ProjectedParts& parts, int64_t B, int64_t T, const at::Tensor& document_starts_BT) {
  return {B, T, parts.qkv, p.conv1d.value(), document_starts_BT, {}};
}

GatedDeltaInputs delta_inputs(const HeadParameters& p, const ProjectedParts& parts, const at::Tensor& convolved_SC, int64_t B, int64_t T,
                              const at::Tensor& document_starts_BT) {
  const GatedDeltaLayout& l = p.layout;
  return {B, T, l.key_heads, l.key_dim, l.value_dim, convolved_SC, parts.beta, parts.alpha, p.A_log.value(), p.dt_bias.value(), document_starts_BT, {}};
}

// Everything between the projections as one node. The projection and the rule's output stay for backward; the convolution is done again there.
struct CoreFunction : torch::autograd::Function<CoreFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& projected_SW, const GatedDeltaNet* layer, const Sequence& sequence, KeyHeads heads) {
    const HeadParameters p(*layer, heads);
    const ProjectedParts parts(projected_SW, p.layout);
    const int64_t B = sequence.B, T = sequence.T;
    const at::Tensor convolved_SC = causal_conv1d(convolution_inputs(p, parts, B, T, sequence.document_starts_BT));
    const at::Tensor out_SV = gated_delta(delta_inputs(p, parts, convolved_SC, B, T, sequence.document_starts_BT)).out_SV;
    const GatedNormResult normed = gated_rms_norm(out_SV, parts.z, p.out_norm.value(), layer->norm);
    context->save_for_backward({projected_SW, out_SV, normed.rstd_SN, sequence.document_starts_BT});
    context->saved_data["layer"] = reinterpret_cast<int64_t>(layer);
    context->saved_data["heads"] = std::vector<int64_t>{heads.first, heads.count};
    context->saved_data["B"] = B;
    return normed.y_SV;
  }
  static variable_list backward(AutogradContext* context, variable_list dy) {
    const auto s = context->get_saved_variables();
    const auto& layer = *reinterpret_cast<const GatedDeltaNet*>(context->saved_data["layer"].toInt());
    const std::vector<int64_t> heads = context->saved_data["heads"].toIntVector();
    const HeadParameters p(layer, {heads[0], heads[1]});
    const int64_t B = context->saved_data["B"].toInt(), T = s[0].size(0) / B;
    const ProjectedParts parts(s[0], p.layout);
    const at::Tensor dprojected_SW = at::empty(s[0].sizes(), s[0].options());
    const ProjectedParts d(dprojected_SW, p.layout);
    HeadGradients gradients(p);
    const at::Tensor dout_SV = gated_rms_norm_backward(dy[0], s[1], parts.z, p.out_norm.value(), s[2], layer.norm, d.z, gradients.out_norm);
    const ConvolutionInputs convolution = convolution_inputs(p, parts, B, T, s[3]);
    const GatedDeltaInputs in = delta_inputs(p, parts, causal_conv1d(convolution), B, T, s[3]);
    GatedDeltaGradients delta{at::empty_like(in.qkv_SC), d.beta, d.alpha, gradients.A_log, gradients.dt_bias, {}};
    gated_delta_backward(dout_SV, in, delta);
    causal_conv1d_backward(delta.dqkv_SC, convolution, d.qkv, gradients.conv1d);
    gradients.add();
    return {dprojected_SW, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor GatedDeltaNet::project(const at::Tensor& x_SH) const { return in_proj(region.enter(x_SH)); }
at::Tensor GatedDeltaNet::core(const at::Tensor& projected_SW, const Sequence& sequence) const {
  if (context->size() == 1) return core_of_heads(projected_SW, sequence, {0, layout.key_heads});
  return spread == RowsOver::heads ? core_by_heads(*this, projected_SW, sequence) : core_by_scan(*this, projected_SW, sequence);
}
at::Tensor GatedDeltaNet::core_of_heads(const at::Tensor& projected_SW, const Sequence& sequence, KeyHeads heads) const {
  return CoreFunction::apply(projected_SW, this, sequence, heads);
}
at::Tensor GatedDeltaNet::finish(const at::Tensor& core_SV) const { return region.leave(out_proj(core_SV)); }

at::Tensor GatedDeltaNet::core_from(const at::Tensor& projected_TW, GatedDeltaMemory& memory, int64_t row, Start start) const {
  const HeadParameters p(*this, {0, layout.key_heads});
  const ProjectedParts parts(projected_TW, layout);
  const int64_t T = projected_TW.size(0), history_length = memory.history_BHC.size(1);
  at::Tensor history_HC = memory.history_BHC.select(0, row), state_NDV = memory.state_BNDV.select(0, row);
  if (start == Start::fresh) history_HC.zero_();
  ConvolutionInputs convolution = convolution_inputs(p, parts, 1, T, {});
  convolution.history_BHC = history_HC.to(projected_TW.scalar_type()).unsqueeze(0);
  GatedDeltaInputs in = delta_inputs(p, parts, causal_conv1d(convolution), 1, T, {});
  if (start == Start::continued) in.state_BNDV = state_NDV.unsqueeze(0);
  const GatedDeltaResult result = gated_delta(in);
  state_NDV.copy_(result.state_BNDV.squeeze(0));
  const at::Tensor inputs = at::cat({history_HC, parts.qkv.to(history_HC.scalar_type())});
  history_HC.copy_(inputs.narrow(0, inputs.size(0) - history_length, history_length));
  return gated_rms_norm(result.out_SV, parts.z, p.out_norm.value(), norm).y_SV;
}

GatedDeltaMemory make_memory(const GatedDeltaNet& layer, int64_t rows) {
  const GatedDeltaLayout& l = layer.layout;
  const at::Tensor& weight = layer.conv1d->value;
  const auto options = at::TensorOptions(weight.device()).dtype(weight.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
  return {at::empty({rows, weight.size(2) - 1, l.channels()}, options), at::empty({rows, l.value_heads, l.key_dim, l.value_dim}, options)};
}

}  // namespace ponte
