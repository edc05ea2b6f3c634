#include "nn/router.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/errors.h"
#include "config/limits.h"
#include "kernels/device.h"
#include "kernels/dispatch.h"
#include "kernels/gemm.h"
#include "nn/parameters.h"

namespace ponte {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// The gate in its own precision; the weight's gradient goes to main_grad as a linear layer's does.
struct GateFunction : torch::autograd::Function<GateFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x_SH, const at::Tensor& weight_EH, Parameter* parameter, at::ScalarType type) {
    context->save_for_backward({x_SH, weight_EH});
    context->saved_data["weight"] = reinterpret_cast<int64_t>(parameter);
    return times_transposed(x_SH.to(type), weight_EH.to(type));
  }
  static variable_list backward(AutogradContext* context, variable_list dy) {
    const auto saved = context->get_saved_variables();
    auto* weight = reinterpret_cast<Parameter*>(context->saved_data["weight"].toInt());
    const at::Tensor dlogits_SE = dy[0].contiguous();
    if (weight->value.requires_grad()) {
      at::Tensor& gradient = gradient_of(*weight);
      if (gradient.scalar_type() == at::kFloat && dlogits_SE.scalar_type() == at::kDouble)
        gradient.add_(dlogits_SE.t().matmul(saved[0].to(at::kDouble)).to(at::kFloat));
      else
        add_transposed_product(gradient, dlogits_SE, saved[0].to(dlogits_SE.scalar_type()));
    }
    return {times(dlogits_SE, saved[1].to(dlogits_SE.scalar_type())).to(saved[0].scalar_type()), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

// The logits as they are; in backward the loss receives `scale` as its gradient, as if it stood in the objective with that factor.
struct AttachLoss : torch::autograd::Function<AttachLoss> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& logits_SE, const at::Tensor& loss, double scale) {
    context->save_for_backward({loss});
    context->saved_data["scale"] = scale;
    return logits_SE.view_as(logits_SE);
  }
  static variable_list backward(AutogradContext* context, variable_list dy) {
    return {dy[0], at::full_like(context->get_saved_variables()[0], context->saved_data["scale"].toDouble()), at::Tensor()};
  }
};

// 1 for experts of the `group_choices` best groups of each token, a group's worth being the sum of its best choices / group_choices scores.
at::Tensor outside_best_groups(const at::Tensor& scores_SE, const RouterOptions& o) {
  const at::Tensor grouped = scores_SE.view({scores_SE.size(0), o.groups, -1});
  const at::Tensor worth = std::get<0>(grouped.topk(o.choices / o.group_choices, -1)).sum(-1);
  const at::Tensor outside = at::ones_like(worth, worth.options().dtype(at::kBool)).scatter(1, std::get<1>(worth.topk(o.group_choices, -1)), false);
  return outside.unsqueeze(-1).expand_as(grouped).reshape(scores_SE.sizes());
}

at::Tensor even_experts(int64_t S, const RouterOptions& o, const at::Device& device) {
  return at::arange(S * o.choices, at::TensorOptions(device).dtype(at::kLong)).remainder(o.experts).view({S, o.choices});
}

at::Tensor scores_of(const at::Tensor& logits_SE, const RouterOptions& o) {
  return o.sigmoid ? at::sigmoid(logits_SE) : o.pre_softmax ? at::softmax(logits_SE, -1) : logits_SE;
}

// Each token's choices, best first.
at::Tensor chosen_experts(const at::Tensor& logits_SE, const Parameter* expert_bias, const RouterOptions& o) {
  if (o.force_balanced) return even_experts(logits_SE.size(0), o, logits_SE.device());
  at::Tensor scores_SE = scores_of(logits_SE.detach(), o);
  if (expert_bias) scores_SE = scores_SE + expert_bias->value.detach();
  if (o.groups) scores_SE = scores_SE.masked_fill(outside_best_groups(scores_SE, o), -INFINITY);
  return std::get<1>(scores_SE.topk(o.choices, 1));
}

at::Tensor weights_of(const at::Tensor& logits_SE, const at::Tensor& experts_SK, const RouterOptions& o) {
  at::Tensor out = at::gather(scores_of(logits_SE, o), 1, experts_SK);
  if (o.sigmoid && o.choices > 1) out = out / (out.sum(-1, true) + 1e-20);
  if (!o.sigmoid && !o.pre_softmax) out = at::softmax(out, -1);
  return o.scaling_factor == 1 ? out : out * o.scaling_factor;
}

// How often each expert was chosen; -1 counts nowhere.
at::Tensor count(const at::Tensor& experts, int64_t E) {
  const at::Tensor places = experts.reshape({-1}) + 1;
  const auto options = at::TensorOptions(experts.device()).dtype(at::kFloat);
  return at::zeros({E + 1}, options).index_add_(0, places, at::ones(places.sizes(), options)).narrow(0, 1, E);
}

// Summed over the ranks that route the micro-batch together.
at::Tensor over_sharers(at::Tensor counts, const RoutingReport& report) {
  if (report.sharers) report.sharers->all_reduce(counts = counts.contiguous(), ReduceOp::sum);
  return counts;
}

double real_tokens(const RoutingReport& report, int64_t S) {
  if (!report.real_tokens_B.empty()) return std::accumulate(report.real_tokens_B.begin(), report.real_tokens_B.end(), 0.0);
  return report.real_S.defined() ? report.real_S.sum().item<double>() : static_cast<double>(S);
}

// Choices beyond an expert's capacity are unsent: the last ones, or those with the smallest weights.
void drop_over_capacity(Routing& routing, const RouterOptions& o, double tokens) {
  const double choices = tokens * static_cast<double>(o.choices);
  const auto capacity = static_cast<size_t>(std::min(choices, std::ceil(choices / static_cast<double>(o.experts) * *o.capacity_factor)));
  at::Tensor experts = in_host_memory(routing.experts_SK).clone().contiguous();
  const at::Tensor weights = in_host_memory(routing.weights_SK.detach().to(at::kDouble)).contiguous();
  int64_t* expert = experts.mutable_data_ptr<int64_t>();
  const double* weight = weights.const_data_ptr<double>();
  std::vector<std::vector<int64_t>> pairs(static_cast<size_t>(o.experts));
  for (int64_t i = 0; i < experts.numel(); ++i)
    if (expert[i] >= 0) pairs[expert[i]].push_back(i);
  for (auto& own : pairs) {
    if (own.size() <= capacity) continue;
    if (!o.drop_by_position) std::stable_sort(own.begin(), own.end(), [&](int64_t a, int64_t b) { return weight[a] > weight[b]; });
    for (size_t i = capacity; i < own.size(); ++i) expert[own[i]] = -1;
  }
  routing.experts_SK = experts.to(routing.experts_SK.device());
}

// The same for a micro-batch that several ranks route: everybody sees all choices, in the order of their places, and keeps its own.
void drop_over_shared_capacity(Routing& routing, const RouterOptions& o, double tokens, const RoutingReport& report) {
  if (!report.sharers) return drop_over_capacity(routing, o, tokens);
  const at::Tensor places = report.sharers->all_gather(report.place_S);
  const auto device = routing.experts_SK.device();
  const at::Tensor order = places.argsort().to(device, /*non_blocking=*/true);
  Routing whole{report.sharers->all_gather(routing.weights_SK.detach().contiguous()).index_select(0, order),
                report.sharers->all_gather(routing.experts_SK.contiguous()).index_select(0, order)};
  drop_over_capacity(whole, o, tokens);
  const at::Tensor own = at::searchsorted(std::get<0>(places.sort()), report.place_S);
  routing.experts_SK = whole.experts_SK.index_select(0, own.to(device, /*non_blocking=*/true));
}

// The scores the balancing loss looks at, and the choices they alone would make: group limits and the bias stay out of it, as in Megatron.
struct BalancingView {
  at::Tensor probabilities_SE, experts_SK;
};
BalancingView balancing_view(const at::Tensor& logits_SE, const at::Tensor& experts_SK, const Parameter* expert_bias, const RouterOptions& o) {
  at::Tensor p = o.sigmoid ? at::sigmoid(logits_SE) : at::softmax(logits_SE, -1);
  if (o.sigmoid) p = p / (p.sum(-1, true) + 1e-20);
  const bool same = !o.groups && !expert_bias && !o.force_balanced;
  return {p, same ? experts_SK : std::get<1>(p.detach().topk(o.choices, 1))};
}

// Tokens of one row among those this rank routes: [begin, end).
std::pair<int64_t, int64_t> tokens_of_row(const RoutingReport& report, int64_t row) {
  if (!report.place_S.defined()) return {row * report.T, (row + 1) * report.T};
  const at::Tensor bounds = at::searchsorted(report.place_S, at::tensor({row * report.T, (row + 1) * report.T}, at::kLong));
  return {bounds[0].item<int64_t>(), bounds[1].item<int64_t>()};
}

// One loss per sequence, their mean over the sequences that hold a real token.
at::Tensor sequence_loss(const BalancingView& view, const RoutingReport& report, const RouterOptions& o) {
  at::Tensor sum;
  std::vector<at::Tensor> counts;
  for (int64_t b = 0; b < report.B; ++b) {
    const auto [begin, end] = tokens_of_row(report, b);
    counts.push_back(count(view.experts_SK.narrow(0, begin, end - begin), o.experts));
  }
  const at::Tensor counts_BE = over_sharers(at::stack(counts), report);
  int64_t sequences = 0;
  for (int64_t b = 0; b < report.B; ++b) {
    const auto [begin, end] = tokens_of_row(report, b);
    const double tokens = !report.real_tokens_B.empty() ? report.real_tokens_B[b]
                          : report.real_S.defined()     ? report.real_S.narrow(0, begin, end - begin).sum().item<double>()
                                                        : static_cast<double>(report.T);
    if (tokens == 0) continue;
    const at::Tensor loss = balancing_loss(view.probabilities_SE.narrow(0, begin, end - begin), counts_BE[b], tokens, o.choices);
    sum = sum.defined() ? sum + loss : loss;
    ++sequences;
  }
  return sequences ? sum / static_cast<double>(sequences) : at::zeros({}, view.probabilities_SE.options());
}

// What the step has seen before this micro-batch: earlier ones, and those of lower replicas at the same moment.
ExpertLoad seen_before(const RoutingReport& report, int64_t layer, const at::Tensor& counted_E) {
  ExpertLoad out;
  if (layer < static_cast<int64_t>(report.before.size())) out = report.before[layer];
  if (!report.replicas) return out;
  const at::Tensor lower = report.replicas->all_gather(counted_E.to(at::kDouble).unsqueeze(0)).narrow(0, 0, report.replicas->rank()).sum(0);
  const at::Tensor tokens_E = lower.to(counted_E.scalar_type());
  out.tokens_E = out.tokens_E.defined() ? out.tokens_E + tokens_E : tokens_E;
  out.tokens += report.tokens_of_lower;
  return out;
}

// This rank's part of the loss: probabilities of its own tokens, shares of everybody's.
at::Tensor loss_of(const BalancingView& view, const RoutingReport& report, const ExpertLoad& now, int64_t layer, const RouterOptions& o) {
  if (o.balancing == Balancing::sequence) return sequence_loss(view, report, o);
  const at::Tensor counted = over_sharers(count(view.experts_SK, o.experts), report);
  const double tokens = now.tokens;
  if (o.balancing != Balancing::global) return balancing_loss(view.probabilities_SE, counted, tokens, o.choices);
  // Shares over the whole step so far, probabilities of this micro-batch.
  const ExpertLoad before = seen_before(report, layer, counted);
  if (before.tokens == 0) return balancing_loss(view.probabilities_SE, counted, tokens, o.choices);
  const at::Tensor shares = (counted + before.tokens_E) / (tokens + before.tokens);
  return balancing_loss(view.probabilities_SE, shares * tokens, tokens, o.choices);
}

void report_loss(ExpertLoad& load, int64_t which, const at::Tensor& value) {
  if (value.device().is_cpu()) {
    (which == 0 ? load.balancing : load.z) = value.item<double>();
    return;
  }
  if (!load.unread_2.defined()) load.unread_2 = at::zeros({2}, at::TensorOptions(value.device()).dtype(at::kDouble));
  load.unread_2.select(0, which).copy_(value.to(at::kDouble) * load.tokens);
}

// The losses of this layer, with their coefficients; their values go into the report.
at::Tensor router_losses(const at::Tensor& logits_SE, BalancingView view, RoutingReport& report, int64_t layer, const RouterOptions& o) {
  ExpertLoad& load = report.loads[layer];
  at::Tensor objective = at::zeros({}, logits_SE.options());
  if (load.tokens == 0) {
    // Other replicas may have tokens and count ours.
    if (o.balancing == Balancing::global) seen_before(report, layer, at::zeros({o.experts}, logits_SE.options().dtype(at::kFloat).requires_grad(false)));
    return objective;
  }
  at::Tensor z_S = o.z_coefficient != 0 ? at::square(at::logsumexp(logits_SE, -1)) : at::Tensor();
  if (report.real_S.defined()) {
    const at::Tensor padding = report.real_S.logical_not();
    view.experts_SK = view.experts_SK.masked_fill(padding.unsqueeze(1), -1);
    view.probabilities_SE = view.probabilities_SE.masked_fill(padding.unsqueeze(1), 0);
    if (z_S.defined()) z_S = z_S.masked_fill(padding, 0);
  }
  if (o.balancing != Balancing::none) {
    const at::Tensor loss = loss_of(view, report, load, layer, o);
    report_loss(load, 0, over_sharers(loss.detach().clone(), report));
    objective = objective + loss * o.balancing_coefficient;
  }
  if (z_S.defined()) {
    const at::Tensor z = z_S.sum() / load.tokens;
    report_loss(load, 1, over_sharers(z.detach().clone(), report));
    objective = objective + z * o.z_coefficient;
  }
  return objective;
}

}  // namespace

void read_losses(std::vector<ExpertLoad>& loads) {
  std::vector<at::Tensor> unread;
  for (const ExpertLoad& load : loads)
    if (load.unread_2.defined()) unread.push_back(load.unread_2);
  if (unread.empty()) return;
  const at::Tensor values = in_host_memory(at::stack(unread)).contiguous();  // once for all layers
  const double* value = values.const_data_ptr<double>();
  for (ExpertLoad& load : loads) {
    if (!load.unread_2.defined()) continue;
    load.balancing += *value++ / load.tokens;
    load.z += *value++ / load.tokens;
    load.unread_2 = at::Tensor();
  }
}

RouterOptions router_options(const ModelConfig& c) {
  const std::string& type = c.moe_router_load_balancing_type;
  require(type == "none" || type == "aux_loss" || type == "seq_aux_loss" || type == "global_aux_loss",
          "model.moe_router_load_balancing_type: '{}' is not supported; supported: none, aux_loss, seq_aux_loss, global_aux_loss", type);
  const std::string wrong = wrong_routing(c);
  require(wrong.empty(), "{}", wrong);
  RouterOptions o;
  o.experts = c.num_moe_experts;
  o.choices = c.moe_router_topk;
  o.pre_softmax = c.moe_router_pre_softmax;
  o.sigmoid = c.moe_router_score_function == "sigmoid";
  o.force_balanced = c.moe_router_force_load_balancing;
  o.scaling_factor = c.moe_router_topk_scaling_factor.value_or(1.0);
  o.group_choices = c.moe_router_group_topk;
  o.groups = o.group_choices ? c.moe_router_num_groups : 0;
  o.balancing = c.moe_aux_loss_coeff == 0 ? Balancing::none
                : type == "aux_loss"      ? Balancing::micro_batch
                : type == "seq_aux_loss"  ? Balancing::sequence
                : type == "none"          ? Balancing::none
                                          : Balancing::global;
  o.balancing_coefficient = c.moe_aux_loss_coeff;
  o.z_coefficient = c.moe_z_loss_coeff;
  if (c.moe_expert_capacity_factor.value_or(-1) > 0) o.capacity_factor = c.moe_expert_capacity_factor;  // below 0: none, as in Megatron
  o.drop_by_position = c.moe_token_drop_policy == "position";
  if (c.moe_router_dtype == "fp32") o.dtype = at::kFloat;
  if (c.moe_router_dtype == "fp64") o.dtype = at::kDouble;
  return o;
}

at::Tensor balancing_loss(const at::Tensor& probabilities_SE, const at::Tensor& tokens_E, double tokens, int64_t choices) {
  const auto E = static_cast<double>(tokens_E.size(0));
  const at::Tensor shares = tokens_E.to(probabilities_SE.scalar_type()) * (E / (static_cast<double>(choices) * tokens * tokens));
  return (probabilities_SE.sum(0) * shares).sum();
}

at::Tensor updated_expert_bias(const at::Tensor& bias_E, const at::Tensor& tokens_E, double rate) {
  return bias_E + at::sign(tokens_E.mean() - tokens_E).to(bias_E.scalar_type()) * rate;
}

Routing Router::choose(const at::Tensor& logits_SE) const {
  const at::Tensor experts_SK = chosen_experts(logits_SE, expert_bias, options);
  return {weights_of(logits_SE, experts_SK, options), experts_SK};
}

Routing Router::operator()(const at::Tensor& x_SH, RoutingReport* report) const {
  // Scores are computed in at least fp32, whatever the gate's own type.
  const bool wide = x_SH.scalar_type() == at::kDouble;
  const at::ScalarType gate = wide ? at::kDouble : options.dtype.value_or(x_SH.scalar_type());
  at::Tensor logits_SE = GateFunction::apply(x_SH, weight->value, weight, gate);
  if (gate == at::kBFloat16 || gate == at::kHalf) logits_SE = logits_SE.to(at::kFloat);

  Routing out;
  out.experts_SK = chosen_experts(logits_SE, expert_bias, options);
  if (report) {
    ExpertLoad& load = report->loads[layer];
    load.tokens = real_tokens(*report, x_SH.size(0));
    if (options.balancing != Balancing::none || options.z_coefficient != 0) {
      const bool learning = report->objective_scale != 0 && at::GradMode::is_enabled();
      const at::Tensor seen_SE = learning ? logits_SE : logits_SE.detach();
      const at::Tensor objective = router_losses(seen_SE, balancing_view(seen_SE, out.experts_SK, expert_bias, options), *report, layer, options);
      if (learning) logits_SE = AttachLoss::apply(logits_SE, objective, report->objective_scale);
    }
  }
  out.weights_SK = weights_of(logits_SE, out.experts_SK, options);
  if (!report) return out;
  if (report->real_S.defined()) out.experts_SK = out.experts_SK.masked_fill(report->real_S.logical_not().unsqueeze(1), -1);
  report->loads[layer].tokens_E = over_sharers(count(out.experts_SK, options.experts), *report);
  if (options.capacity_factor) drop_over_shared_capacity(out, options, report->loads[layer].tokens, *report);
  return out;
}

}  // namespace ponte
