#include "nn/gated_delta_net.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "nn/attention.h"
#include "nn/context_rows.h"
#include "nn/parameters.h"

namespace ponte {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// The parts of a projected row, as views.
struct Parts {
  at::Tensor qkv, z, beta, alpha;
  Parts(const at::Tensor& projected_SW, const GatedDeltaLayout& l) {
    int64_t at = 0;
    for (const auto& [part, width] : {std::pair{&qkv, l.channels()}, {&z, l.value_width()}, {&beta, l.value_heads}, {&alpha, l.value_heads}}) {
      *part = projected_SW.narrow(1, at, width);
      at += width;
    }
  }
};

at::Tensor value_of(const Parameter* p) { return p->value.detach(); }
at::Tensor wanted_gradient(Parameter* p) { return p->value.requires_grad() ? gradient_of(*p) : at::Tensor(); }

ConvolutionInputs convolution_inputs(const GatedDeltaNet& layer, const Parts& parts, int64_t B, int64_t T, const at::Tensor& document_starts_BT) {
  return {B, T, parts.qkv, value_of(layer.conv1d), document_starts_BT, {}};
}

GatedDeltaInputs delta_inputs(const GatedDeltaNet& layer, const Parts& parts, const at::Tensor& convolved_SC, int64_t B, int64_t T,
                              const at::Tensor& document_starts_BT) {
  const GatedDeltaLayout& l = layer.layout;
  return {B, T, l.key_heads, l.key_dim, l.value_dim, convolved_SC, parts.beta, parts.alpha, value_of(layer.A_log), value_of(layer.dt_bias),
          document_starts_BT, {}};
}

// Everything between the projections as one node. The projection and the rule's output stay for backward; the convolution is done again there.
struct CoreFunction : torch::autograd::Function<CoreFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& projected_SW, const GatedDeltaNet* layer, const Sequence& sequence) {
    const Parts parts(projected_SW, layer->layout);
    const int64_t B = sequence.B, T = sequence.T;
    const at::Tensor convolved_SC = causal_conv1d(convolution_inputs(*layer, parts, B, T, sequence.document_starts_BT));
    const at::Tensor out_SV = gated_delta(delta_inputs(*layer, parts, convolved_SC, B, T, sequence.document_starts_BT)).out_SV;
    const GatedNormResult normed = gated_rms_norm(out_SV, parts.z, value_of(layer->out_norm), layer->norm);
    context->save_for_backward({projected_SW, out_SV, normed.rstd_SN, sequence.document_starts_BT});
    context->saved_data["layer"] = reinterpret_cast<int64_t>(layer);
    context->saved_data["B"] = B;
    return normed.y_SV;
  }
  static variable_list backward(AutogradContext* context, variable_list dy) {
    const auto s = context->get_saved_variables();
    const auto& layer = *reinterpret_cast<const GatedDeltaNet*>(context->saved_data["layer"].toInt());
    const int64_t B = context->saved_data["B"].toInt(), T = s[0].size(0) / B;
    const Parts parts(s[0], layer.layout);
    const at::Tensor dprojected_SW = at::empty(s[0].sizes(), s[0].options());
    const Parts d(dprojected_SW, layer.layout);
    at::Tensor norm_gradient = wanted_gradient(layer.out_norm), convolution_gradient = wanted_gradient(layer.conv1d);
    const at::Tensor dout_SV = gated_rms_norm_backward(dy[0], s[1], parts.z, value_of(layer.out_norm), s[2], layer.norm, d.z, norm_gradient);
    const ConvolutionInputs convolution = convolution_inputs(layer, parts, B, T, s[3]);
    const GatedDeltaInputs in = delta_inputs(layer, parts, causal_conv1d(convolution), B, T, s[3]);
    GatedDeltaGradients delta{at::empty_like(in.qkv_SC), d.beta, d.alpha, wanted_gradient(layer.A_log), wanted_gradient(layer.dt_bias)};
    gated_delta_backward(dout_SV, in, delta);
    causal_conv1d_backward(delta.dqkv_SC, convolution, d.qkv, convolution_gradient);
    return {dprojected_SW, at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor GatedDeltaNet::project(const at::Tensor& x_SH) const { return in_proj(region.enter(x_SH)); }
at::Tensor GatedDeltaNet::core(const at::Tensor& projected_SW, const Sequence& sequence) const {
  if (context->size() == 1) return CoreFunction::apply(projected_SW, this, sequence);
  // The state goes through a row from its beginning: every context-parallel rank runs whole rows and keeps its own tokens.
  const int64_t B = sequence.B;
  const Sequence whole{B, sequence.T * context->size(), {}, whole_rows_of_ids(sequence.document_starts_BT, context), nullptr};
  return own_tokens(CoreFunction::apply(whole_rows(projected_SW, B, context), this, whole), B, context);
}
at::Tensor GatedDeltaNet::finish(const at::Tensor& core_SV) const { return region.leave(out_proj(core_SV)); }

at::Tensor GatedDeltaNet::core_from(const at::Tensor& projected_TW, GatedDeltaMemory& memory, int64_t row, Start start) const {
  const Parts parts(projected_TW, layout);
  const int64_t T = projected_TW.size(0), history_length = memory.history_BHC.size(1);
  at::Tensor history_HC = memory.history_BHC.select(0, row), state_NDV = memory.state_BNDV.select(0, row);
  if (start == Start::fresh) history_HC.zero_();
  ConvolutionInputs convolution = convolution_inputs(*this, parts, 1, T, {});
  convolution.history_BHC = history_HC.to(projected_TW.scalar_type()).unsqueeze(0);
  GatedDeltaInputs in = delta_inputs(*this, parts, causal_conv1d(convolution), 1, T, {});
  if (start == Start::continued) in.state_BNDV = state_NDV.unsqueeze(0);
  const GatedDeltaResult result = gated_delta(in);
  state_NDV.copy_(result.state_BNDV.squeeze(0));
  const at::Tensor inputs = at::cat({history_HC, parts.qkv.to(history_HC.scalar_type())});
  history_HC.copy_(inputs.narrow(0, inputs.size(0) - history_length, history_length));
  return gated_rms_norm(result.out_SV, parts.z, value_of(out_norm), norm).y_SV;
}

GatedDeltaMemory make_memory(const GatedDeltaNet& layer, int64_t rows) {
  const GatedDeltaLayout& l = layer.layout;
  const at::Tensor& weight = layer.conv1d->value;
  const auto options = at::TensorOptions(weight.device()).dtype(weight.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
  return {at::empty({rows, weight.size(2) - 1, l.channels()}, options), at::empty({rows, l.value_heads, l.key_dim, l.value_dim}, options)};
}

}  // namespace ponte
