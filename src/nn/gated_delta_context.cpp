// Legend besides the kernels': L tokens of a chunk, P chunks of a row on this rank (two), R context-parallel ranks; chunk r and chunk 2 R - 1 - r lie on
// rank r.
#include "nn/gated_delta_context.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "base/errors.h"
#include "layout/context_split.h"
#include "nn/attention.h"
#include "nn/gated_delta_parts.h"
#include "nn/parameters.h"

namespace ponte {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor places(const std::vector<int64_t>& values, const at::Tensor& like) { return at::tensor(values, at::kLong).to(like.device(), /*non_blocking=*/true); }
std::vector<int64_t> equal_rows(const Group& group, int64_t rows) { return std::vector<int64_t>(static_cast<size_t>(group.size()), rows); }

const GatedDeltaNet& layer_of(AutogradContext* context) { return *reinterpret_cast<const GatedDeltaNet*>(context->saved_data["layer"].toInt()); }

struct ConvolutionFunction : torch::autograd::Function<ConvolutionFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x_SC, const GatedDeltaNet* layer, const at::Tensor& starts_BT) {
    context->saved_data["layer"] = reinterpret_cast<int64_t>(layer);
    context->save_for_backward({x_SC, starts_BT});
    return causal_conv1d({starts_BT.size(0), starts_BT.size(1), x_SC, layer->conv1d->value.detach(), starts_BT, {}});
  }
  static variable_list backward(AutogradContext* context, variable_list dy) {
    const auto s = context->get_saved_variables();
    Parameter* weight = layer_of(context).conv1d;
    at::Tensor dx_SC = at::empty_like(s[0]), gradient = weight->value.requires_grad() ? gradient_of(*weight) : at::Tensor();
    causal_conv1d_backward(dy[0].contiguous(), {s[1].size(0), s[1].size(1), s[0], weight->value.detach(), s[1], {}}, dx_SC, gradient);
    return {dx_SC, at::Tensor(), at::Tensor()};
  }
};

// The rule with values of width V + D: beside each value stand zeros, whose state begins as the identity.
struct RuleFunction : torch::autograd::Function<RuleFunction> {
  static GatedDeltaInputs inputs(const GatedDeltaNet& layer, const at::Tensor& qkv_SC, const at::Tensor& beta_SN, const at::Tensor& alpha_SN,
                                 const at::Tensor& starts_BT) {
    const GatedDeltaLayout& l = layer.layout;
    const auto wide = qkv_SC.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    const auto options = qkv_SC.options().dtype(wide);
    const at::Tensor identity = at::cat({at::zeros({l.key_dim, l.value_dim}, options), at::eye(l.key_dim, options)}, 1);
    return {starts_BT.size(0), starts_BT.size(1), l.key_heads, l.key_dim, l.value_dim + l.key_dim, qkv_SC, beta_SN, alpha_SN, layer.A_log->value.detach(),
            layer.dt_bias->value.detach(), starts_BT, identity.expand({starts_BT.size(0), l.value_heads, l.key_dim, l.value_dim + l.key_dim})};
  }
  static variable_list forward(AutogradContext* context, const at::Tensor& qkv_SC, const at::Tensor& beta_SN, const at::Tensor& alpha_SN,
                               const GatedDeltaNet* layer, const at::Tensor& starts_BT) {
    context->saved_data["layer"] = reinterpret_cast<int64_t>(layer);
    context->save_for_backward({qkv_SC, beta_SN, alpha_SN, starts_BT});
    const GatedDeltaResult result = gated_delta(inputs(*layer, qkv_SC, beta_SN, alpha_SN, starts_BT));
    return {result.out_SV, result.state_BNDV};
  }
  static variable_list backward(AutogradContext* context, variable_list dy) {
    const auto s = context->get_saved_variables();
    const GatedDeltaNet& layer = layer_of(context);
    const GatedDeltaInputs in = inputs(layer, s[0], s[1], s[2], s[3]);
    const auto wanted = [](Parameter* p) { return p->value.requires_grad() ? gradient_of(*p) : at::Tensor(); };
    GatedDeltaGradients d{at::empty_like(s[0]), at::empty_like(s[1]), at::empty_like(s[2]), wanted(layer.A_log), wanted(layer.dt_bias), {}};
    d.dstate_BNDV = dy[1].defined() ? dy[1].contiguous().clone() : at::zeros(in.state_BNDV.sizes(), in.state_BNDV.options());
    gated_delta_backward(dy[0].defined() ? dy[0] : at::zeros({s[0].size(0), layer.layout.value_heads * in.V}, s[0].options()), in, d);
    return {d.dqkv_SC, d.dbeta_SN, d.dalpha_SN, at::Tensor(), at::Tensor()};
  }
};

struct NormFunction : torch::autograd::Function<NormFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x_SV, const at::Tensor& z_SV, const GatedDeltaNet* layer) {
    const GatedNormResult normed = gated_rms_norm(x_SV, z_SV, layer->out_norm->value.detach(), layer->norm);
    context->saved_data["layer"] = reinterpret_cast<int64_t>(layer);
    context->save_for_backward({x_SV, z_SV, normed.rstd_SN});
    return normed.y_SV;
  }
  static variable_list backward(AutogradContext* context, variable_list dy) {
    const auto s = context->get_saved_variables();
    const GatedDeltaNet& layer = layer_of(context);
    at::Tensor gradient = layer.out_norm->value.requires_grad() ? gradient_of(*layer.out_norm) : at::Tensor();
    const at::Tensor dz_SV = at::empty(s[1].sizes(), s[1].options());
    return {gated_rms_norm_backward(dy[0].contiguous(), s[0], s[1], layer.out_norm->value.detach(), s[2], layer.norm, dz_SV, gradient), dz_SV, at::Tensor()};
  }
};

// One rank's chunks of rows.
struct Chunks {
  std::shared_ptr<Group> group;
  int64_t B, L;
  int64_t ranks() const { return group->size(); }
  int64_t number(int64_t p) const { return p == 0 ? group->rank() : 2 * ranks() - 1 - group->rank(); }

  // Where each token's document begins, counted from its chunk's first token: [B P, L].
  at::Tensor starts(const at::Tensor& document_starts_BT) const {
    const at::Tensor whole = document_starts_BT.defined() ? document_starts_BT : at::zeros({B, 2 * L}, at::kLong);
    const at::Tensor begin_P = at::tensor({number(0) * L, number(1) * L}, at::kLong).to(whole.device());
    return (whole.view({B, 2, L}) - begin_P.view({1, 2, 1})).view({B * 2, L}).contiguous();
  }
  // x_PX of every rank, in the order of the row's chunks.
  std::vector<at::Tensor> in_order(const at::Tensor& x_BPX) const {
    const at::Tensor all = all_gather_rows(x_BPX.contiguous(), group, equal_rows(*group, 2 * B)).unflatten(0, {ranks(), B, 2});
    std::vector<at::Tensor> out;
    for (int64_t c = 0; c < 2 * ranks(); ++c) out.push_back(all.select(0, c < ranks() ? c : 2 * ranks() - 1 - c).select(1, c < ranks() ? 0 : 1));
    return out;
  }
};

// The convolution of all chunks, each after the last inputs of the one before.
at::Tensor convolved(const GatedDeltaNet& layer, const Chunks& chunks, const at::Tensor& qkv_SC, const at::Tensor& starts_BT) {
  const int64_t B = chunks.B, L = chunks.L, before = layer.conv1d->value.size(2) - 1;
  require(L >= before, "context parallelism: {} tokens of a chunk, a gated delta net's convolution looks {} back", L, before);
  const at::Tensor qkv_BLC = qkv_SC.view({B * 2, L, -1});
  const std::vector<at::Tensor> ends = chunks.in_order(qkv_BLC.narrow(1, L - before, before));
  std::vector<at::Tensor> own;
  for (int64_t p = 0; p < 2; ++p) own.push_back(chunks.number(p) == 0 ? at::zeros_like(ends[0]) : ends[static_cast<size_t>(chunks.number(p) - 1)]);
  const at::Tensor x_BTC = at::cat({at::stack(own, 1).flatten(0, 1), qkv_BLC}, 1);
  const at::Tensor starts = at::cat({at::zeros({B * 2, before}, starts_BT.options()), starts_BT + before}, 1);
  return ConvolutionFunction::apply(x_BTC.flatten(0, 1), &layer, starts).unflatten(0, {B * 2, L + before}).narrow(1, before, L).flatten(0, 1);
}

// First states of this rank's chunks: [B, P, N, D, V].
at::Tensor first_states(const GatedDeltaNet& layer, const Chunks& chunks, const at::Tensor& state_BNDX) {
  const int64_t V = layer.layout.value_dim, D = layer.layout.key_dim;
  const std::vector<at::Tensor> all_BNDX = chunks.in_order(state_BNDX);
  at::Tensor state_BNDV = at::zeros_like(all_BNDX[0].narrow(-1, 0, V));
  std::vector<at::Tensor> own(2);
  for (size_t c = 0; c < all_BNDX.size(); ++c) {
    for (int64_t p = 0; p < 2; ++p)
      if (chunks.number(p) == static_cast<int64_t>(c)) own[static_cast<size_t>(p)] = state_BNDV;
    state_BNDV = at::matmul(all_BNDX[c].narrow(-1, V, D), state_BNDV) + all_BNDX[c].narrow(-1, 0, V);
  }
  return at::stack(own, 1);
}

}  // namespace

at::Tensor core_by_heads(const GatedDeltaNet& layer, const at::Tensor& projected_SW, const Sequence& sequence) {
  const GatedDeltaLayout& l = layer.layout;
  const std::shared_ptr<Group>& group = layer.context;
  const int64_t R = group->size(), B = sequence.B, T = sequence.T, S = B * T;
  require(l.key_heads % R == 0, "model.cp_comm_type=a2a: {} key heads of a rank's gated delta net do not divide over {} context-parallel ranks; p2p and "
          "all_gather do not need that", l.key_heads, R);
  const KeyHeads own{group->rank() * (l.key_heads / R), l.key_heads / R};
  std::vector<int64_t> columns;
  for (int64_t r = 0; r < R; ++r)
    for (const int64_t column : columns_of(l, {r * own.count, own.count})) columns.push_back(column);
  const at::Tensor by_rank = places(context_order(R * T, R), projected_SW), ascending = by_rank.argsort();
  const std::vector<int64_t> rows = equal_rows(*group, S);
  const at::Tensor sent_SX = projected_SW.index_select(1, places(columns, projected_SW)).unflatten(1, {R, -1}).transpose(0, 1).flatten(0, 1);
  const at::Tensor whole_BTX = all_to_all(sent_SX, group, rows, rows).unflatten(0, {R, B, T}).transpose(0, 1).flatten(1, 2).index_select(1, ascending);
  at::Tensor starts_BT;
  if (const at::Tensor& own_BT = sequence.document_starts_BT; own_BT.defined())
    starts_BT = group->all_gather(own_BT.t().contiguous()).index_select(0, ascending.to(own_BT.device())).t().contiguous();
  const at::Tensor y_SV = layer.core_of_heads(whole_BTX.flatten(0, 1).contiguous(), {B, R * T, {}, starts_BT, nullptr}, own);
  const at::Tensor back_SV = y_SV.unflatten(0, {B, R * T}).index_select(1, by_rank).unflatten(1, {R, T}).transpose(0, 1).flatten(0, 2);
  return all_to_all(back_SV, group, rows, rows).unflatten(0, {R, S}).transpose(0, 1).flatten(1, 2);
}

at::Tensor core_by_scan(const GatedDeltaNet& layer, const at::Tensor& projected_SW, const Sequence& sequence) {
  const GatedDeltaLayout& l = layer.layout;
  const Chunks chunks{layer.context, sequence.B, sequence.T / 2};
  const int64_t B = chunks.B, L = chunks.L, N = l.value_heads, D = l.key_dim, V = l.value_dim, S = projected_SW.size(0);
  const ProjectedParts parts(projected_SW, l);
  const at::Tensor starts_BT = chunks.starts(sequence.document_starts_BT);
  const at::Tensor qkv_SC = convolved(layer, chunks, parts.qkv.contiguous(), starts_BT);
  const at::Tensor values_SNV = qkv_SC.narrow(1, 2 * l.key_heads * D, N * V).unflatten(1, {N, V});
  const at::Tensor extended_SNX = at::cat({values_SNV, at::zeros({S, N, D}, qkv_SC.options())}, -1);
  const auto result = RuleFunction::apply(at::cat({qkv_SC.narrow(1, 0, 2 * l.key_heads * D), extended_SNX.flatten(1, 2)}, 1), parts.beta.contiguous(),
                                          parts.alpha.contiguous(), &layer, starts_BT);
  const at::Tensor states_BPNDV = first_states(layer, chunks, result[1]);
  const at::Tensor out_BPNLX = result[0].view({B, 2, L, N, V + D}).transpose(2, 3);
  const at::Tensor linear_BPNLV = at::matmul(out_BPNLX.narrow(-1, V, D).to(states_BPNDV.scalar_type()), states_BPNDV);
  const at::Tensor out_BPNLV = (out_BPNLX.narrow(-1, 0, V) + linear_BPNLV).to(projected_SW.scalar_type());
  return NormFunction::apply(out_BPNLV.transpose(2, 3).reshape({S, N * V}), parts.z, &layer);
}

}  // namespace ponte
