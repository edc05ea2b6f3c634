// What a model knows of its routers: a report per micro-batch, their sum over a step, and the biases that follow from it.
#include <ATen/ATen.h>

#include <algorithm>

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
  }
}

std::shared_ptr<RoutingReport> Model::State::routing_report(const Batch& batch, double scale) const {
  if (loads.empty()) return nullptr;
  auto out = std::make_shared<RoutingReport>();
  const int64_t B = out->B = batch.tokens_BT.size(0), T = out->T = batch.tokens_BT.size(1);
  if (batch.padding_BT.defined()) out->real_S = batch.padding_BT.reshape({-1}).logical_not().to(options.device);
  out->objective_scale = scale;
  out->before = earlier;
  out->loads.resize(loads.size());
  if (!earlier.empty() && groups.data->size() > 1) out->replicas = groups.data;
  const bool by_tensor = config.sequence_parallel && groups.tensor->size() > 1;
  if (!by_tensor && groups.context->size() == 1) return out;
  out->sharers = by_tensor ? groups.tensor_context : groups.context;
  at::Tensor places = at::arange(T, at::kLong);
  if (groups.context->size() > 1) places = at::tensor(context_tokens(T, groups.context->rank(), groups.context->size()), at::kLong);
  at::Tensor place_S = (at::arange(B, at::kLong).unsqueeze(1) * T + places.unsqueeze(0)).reshape({-1});
  if (by_tensor) place_S = place_S.chunk(groups.tensor->size())[groups.tensor->rank()];
  out->place_S = place_S.contiguous().to(options.device);
  const at::Tensor real_BT = batch.padding_BT.defined() ? batch.padding_BT.logical_not() : at::ones({B, T}, at::kBool);
  for (int64_t b = 0; b < B; ++b) out->real_tokens_B.push_back(real_BT[b].sum().item<double>());
  if (out->real_S.defined()) out->real_S = out->real_S.index_select(0, out->place_S);
  return out;
}

namespace {

// Counts add up over replicas, losses are means over their tokens.
std::vector<ExpertLoad> over_replicas(std::vector<ExpertLoad> loads, Group& replicas) {
  if (replicas.size() == 1) return loads;
  for (ExpertLoad& load : loads) {
    if (!load.tokens_E.defined()) continue;
    const at::Tensor totals = at::tensor({load.tokens, load.balancing * load.tokens, load.z * load.tokens}, load.tokens_E.options().dtype(at::kDouble));
    at::Tensor sums = at::cat({load.tokens_E.to(at::kDouble), totals});
    replicas.all_reduce(sums, ReduceOp::sum);
    const int64_t E = load.tokens_E.size(0);
    load.tokens_E = sums.narrow(0, 0, E).to(load.tokens_E.scalar_type());
    load.tokens = sums[E].item<double>();
    const double tokens = std::max(load.tokens, 1.0);
    load.balancing = sums[E + 1].item<double>() / tokens;
    load.z = sums[E + 2].item<double>() / tokens;
  }
  return loads;
}

}  // namespace

void Model::State::add_report(const RoutingReport& report) {
  add_loads(loads, report.loads);
  if (!earlier.empty()) add_loads(earlier, over_replicas(report.loads, *groups.data));
}

void Model::reduce_expert_loads() {
  state_->loads = over_replicas(state_->loads, *state_->groups.data);
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
