// What a model knows of its routers: a report per micro-batch, their sum over a step, and the biases that follow from it.
#include <ATen/ATen.h>

#include <numeric>

#include "layout/context_split.h"
#include "model/routing.h"
#include "model/state.h"

namespace ponte {

void add_loads(std::vector<ExpertLoad>& step, const std::vector<ExpertLoad>& micro_batch) {
  for (size_t i = 0; i < step.size(); ++i) {
    const ExpertLoad& now = micro_batch[i];
    ExpertLoad& sum = step[i];
    if (!now.tokens_E.defined() || now.tokens == 0) continue;
    const double tokens = sum.tokens + now.tokens;
    sum.tokens_E = sum.tokens_E.defined() ? sum.tokens_E + now.tokens_E : now.tokens_E;
    sum.balancing = (sum.balancing * sum.tokens + now.balancing * now.tokens) / tokens;
    sum.z = (sum.z * sum.tokens + now.z * now.tokens) / tokens;
    sum.tokens = tokens;
    if (now.unread_2.defined()) sum.unread_2 = sum.unread_2.defined() ? sum.unread_2 + now.unread_2 : now.unread_2;
  }
}

std::shared_ptr<RoutingReport> Model::State::routing_report(const Batch& batch, double scale) const {
  if (loads.empty()) return nullptr;
  auto out = std::make_shared<RoutingReport>();
  const int64_t B = out->B = batch.tokens_BT.size(0), T = out->T = batch.tokens_BT.size(1);
  const at::Tensor real_BT = batch.padding_BT.defined() ? batch.padding_BT.logical_not() : at::Tensor();
  for (int64_t b = 0; b < B; ++b) out->real_tokens_B.push_back(real_BT.defined() ? real_BT[b].sum().item<double>() : static_cast<double>(T));
  out->objective_scale = scale;
  out->before = earlier;
  out->loads.resize(loads.size());
  if (!earlier.empty() && groups.data->size() > 1) {
    out->replicas = groups.data;
    const double own = std::accumulate(out->real_tokens_B.begin(), out->real_tokens_B.end(), 0.0);
    out->tokens_of_lower = groups.data->all_gather(at::full({1}, own, at::kDouble)).narrow(0, 0, groups.data->rank()).sum().item<double>();
  }
  if (real_BT.defined()) out->real_S = real_BT.reshape({-1}).to(options.device, /*non_blocking=*/true);
  const bool by_tensor = config.sequence_parallel && groups.tensor->size() > 1;
  if (!by_tensor && groups.context->size() == 1) return out;
  out->sharers = by_tensor ? groups.tensor_context : groups.context;
  at::Tensor places = at::arange(T, at::kLong);
  if (groups.context->size() > 1) places = at::tensor(context_tokens(T, groups.context->rank(), groups.context->size()), at::kLong);
  at::Tensor place_S = (at::arange(B, at::kLong).unsqueeze(1) * T + places.unsqueeze(0)).reshape({-1});
  if (by_tensor) place_S = place_S.chunk(groups.tensor->size())[groups.tensor->rank()];
  out->place_S = place_S.contiguous();
  if (real_BT.defined()) out->real_S = real_BT.reshape({-1}).index_select(0, out->place_S).to(options.device, /*non_blocking=*/true);
  return out;
}

namespace {

// Counts add up over replicas, losses are means over their tokens; a replica that has seen none takes part all the same. Counts travel from where they lie,
// numbers from host memory: nobody waits for a device.
std::vector<ExpertLoad> over_replicas(std::vector<ExpertLoad> loads, Group& replicas, int64_t experts, const at::Device& device) {
  if (replicas.size() == 1 || loads.empty()) return loads;
  const auto layers = static_cast<int64_t>(loads.size());
  at::Tensor counts_LE = at::zeros({layers, experts}, at::TensorOptions(device).dtype(at::kDouble)), numbers_L3 = at::zeros({layers, 3}, at::kDouble);
  auto numbers = numbers_L3.accessor<double, 2>();
  for (int64_t i = 0; i < layers; ++i) {
    const ExpertLoad& load = loads[i];
    if (!load.tokens_E.defined()) continue;
    counts_LE[i].copy_(load.tokens_E);
    numbers[i][0] = load.tokens, numbers[i][1] = load.balancing * load.tokens, numbers[i][2] = load.z * load.tokens;
  }
  replicas.all_reduce(counts_LE, ReduceOp::sum);
  replicas.all_reduce(numbers_L3, ReduceOp::sum);
  for (int64_t i = 0; i < layers; ++i) {
    const double tokens = numbers[i][0];
    if (tokens > 0) loads[i] = {counts_LE[i].to(at::kFloat), tokens, numbers[i][1] / tokens, numbers[i][2] / tokens, {}};
  }
  return loads;
}

}  // namespace

void Model::State::add_report(const RoutingReport& report) {
  add_loads(loads, report.loads);
  if (!earlier.empty()) add_loads(earlier, over_replicas(report.loads, *groups.data, config.num_moe_experts, options.device));
}

void Model::reduce_expert_loads() {
  read_losses(state_->loads);
  state_->loads = over_replicas(state_->loads, *state_->groups.data, state_->config.num_moe_experts, state_->options.device);
  state_->reduce_prediction_losses();
}

std::span<const ExpertLoad> Model::expert_loads() const { return state_->loads; }

void Model::update_expert_biases() {
  at::NoGradGuard off;
  const auto update = [this](const DecoderLayer& layer) {
    const auto* sparse = std::get_if<MoeMlp>(&layer.mlp);
    if (!sparse || !sparse->router.expert_bias) return;
    const at::Tensor& tokens_E = state_->loads[sparse->router.layer].tokens_E;
    if (!tokens_E.defined()) return;
    at::Tensor& bias = sparse->router.expert_bias->value;
    bias.copy_(updated_expert_bias(bias, tokens_E, state_->config.moe_router_bias_update_rate));
  };
  for (const DecoderLayer& layer : state_->decoder.layers) update(layer);
  for (const PredictionLayer& prediction : state_->prediction) update(prediction.layer);
}

}  // namespace ponte
