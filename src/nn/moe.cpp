#include "nn/moe.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "base/format.h"
#include "kernels/grouped_gemm.h"
#include "kernels/weighted_swiglu.h"

namespace ponte {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

std::vector<at::Tensor> values_of(const std::vector<Parameter*>& parameters) {
  std::vector<at::Tensor> out;
  for (const Parameter* p : parameters) out.push_back(p->value.detach());
  return out;
}

// main_grad of every trained expert.
std::vector<at::Tensor> gradients_of(const std::vector<Parameter*>& parameters) {
  std::vector<at::Tensor> out;
  for (Parameter* p : parameters) out.push_back(p->value.requires_grad() ? gradient_of(*p) : at::Tensor());
  return out;
}

// Both projections and the weighted activation as one node: the rows, the first projection and the router weights are all that stays for backward.
struct ExpertsFunction : torch::autograd::Function<ExpertsFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x_PH, const at::Tensor& weights_P, const Experts* experts, const ExpertRows& rows) {
    const at::Tensor gate_up_PF2 = grouped_times_transposed(x_PH, values_of(experts->linear_fc1), rows);
    context->save_for_backward({x_PH, weights_P, gate_up_PF2, rows.ends_E});
    context->saved_data["experts"] = reinterpret_cast<int64_t>(experts);
    context->saved_data["first"] = rows.first;
    return grouped_times_transposed(weighted_swiglu(gate_up_PF2, weights_P), values_of(experts->linear_fc2), rows);
  }
  static variable_list backward(AutogradContext* context, variable_list dy) {
    const auto saved = context->get_saved_variables();
    const auto& experts = *reinterpret_cast<const Experts*>(context->saved_data["experts"].toInt());
    ExpertRows rows(context->saved_data["first"].toIntVector());
    rows.ends_E = saved[3];
    const at::Tensor dy_PH = dy[0].contiguous();
    WeightedSwiGluGradients d = weighted_swiglu_backward(grouped_times(dy_PH, values_of(experts.linear_fc2), rows), saved[2], saved[1]);
    std::vector<at::Tensor> fc1 = gradients_of(experts.linear_fc1), fc2 = gradients_of(experts.linear_fc2);
    grouped_add_transposed_product(fc2, dy_PH, d.y_PF, rows);
    grouped_add_transposed_product(fc1, d.dgate_up_PF2, saved[0], rows);
    if (rows.ends_E.defined()) d.dweight_P = without_nobodys(d.dweight_P, rows.ends_E);
    return {grouped_times(d.dgate_up_PF2, values_of(experts.linear_fc1), rows), d.dweight_P, at::Tensor(), at::Tensor()};
  }
  // Rows behind the last expert's have no weight.
  static at::Tensor without_nobodys(const at::Tensor& dweight_P, const at::Tensor& ends_E) {
    const at::Tensor row = at::arange(dweight_P.size(0), ends_E.options());
    return dweight_P.masked_fill(at::ge(row, ends_E.select(0, ends_E.size(0) - 1)), 0);
  }
};

// The experts' matrices, still zero, become pieces of one tensor, so that a device multiplies them all in one call.
void lay_side_by_side(const std::vector<Parameter*>& parameters) {
  if (parameters.empty()) return;
  const at::NoGradGuard off;
  const at::Tensor& first = parameters[0]->value;
  std::vector<int64_t> shape = first.sizes().vec();
  shape.insert(shape.begin(), static_cast<int64_t>(parameters.size()));
  const at::Tensor all = at::zeros(shape, first.options().requires_grad(false));
  for (size_t e = 0; e < parameters.size(); ++e) parameters[e]->set_value(all[static_cast<int64_t>(e)].detach().set_requires_grad(true));
}

}  // namespace

at::Tensor Experts::operator()(const at::Tensor& x_PH, const at::Tensor& weights_P, const ExpertRows& rows) const {
  return ExpertsFunction::apply(x_PH, weights_P, this, rows);
}

at::Tensor SharedExpert::operator()(const at::Tensor& x_SH) const {
  const at::Tensor y_SH = mlp(x_SH);
  return gate ? at::mul(y_SH, at::sigmoid(Linear{gate, nullptr}(x_SH))) : y_SH;
}

at::Tensor MoeMlp::operator()(const at::Tensor& x_SH, RoutingReport* report) const {
  const Routing routing = router(x_SH, report);
  const DispatchedTokens tokens = dispatcher->dispatch(x_SH, routing, router.options.experts);
  const at::Tensor y_SH = dispatcher->combine(experts(tokens.x_PH, tokens.weights_P, tokens.rows), tokens);
  return shared ? at::add(y_SH, (*shared)(x_SH)) : y_SH;
}

ExpertRange local_experts(int64_t experts, const ExpertGroups& groups) {
  const int64_t count = experts / groups.expert->size();
  return {groups.expert->rank() * count, count};
}

MoeMlp make_moe_mlp(const ModelConfig& config, int64_t layer, const std::string& prefix, Parameters& parameters, const TensorRegion& region,
                    const ExpertGroups& groups) {
  MoeMlp out;
  out.router = {&parameters.get(prefix + "router.weight"), parameters.get_if_present(prefix + "router.expert_bias"), router_options(config), layer};
  if (out.router.expert_bias) out.router.expert_bias->value.set_requires_grad(false);
  const ExpertRange own = local_experts(config.num_moe_experts, groups);
  for (int64_t e = own.first; e < own.first + own.count; ++e) {
    out.experts.linear_fc1.push_back(&parameters.get(format("{}experts.linear_fc1.weight{}", prefix, e)));
    out.experts.linear_fc2.push_back(&parameters.get(format("{}experts.linear_fc2.weight{}", prefix, e)));
  }
  lay_side_by_side(out.experts.linear_fc1);
  lay_side_by_side(out.experts.linear_fc2);
  if (Parameter* fc1 = parameters.get_if_present(prefix + "shared_experts.linear_fc1.weight")) {
    SharedExpert& shared = out.shared.emplace();
    shared.mlp = {{fc1, nullptr}, {&parameters.get(prefix + "shared_experts.linear_fc2.weight"), nullptr}, region};
    shared.gate = parameters.get_if_present(prefix + "shared_experts.gate_weight");
  }
  out.dispatcher = token_dispatcher(config, groups, region);
  return out;
}

}  // namespace ponte
