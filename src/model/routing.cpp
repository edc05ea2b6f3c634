// What a model knows of its routers: a report per micro-batch, their sum over a step, and the biases that follow from it.
#include <ATen/ATen.h>

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
  out->B = batch.tokens_BT.size(0);
  out->T = batch.tokens_BT.size(1);
  if (batch.padding_BT.defined()) out->real_S = batch.padding_BT.reshape({-1}).logical_not().to(options.device);
  out->objective_scale = scale;
  out->before = loads;
  out->loads.resize(loads.size());
  return out;
}

std::span<const ExpertLoad> Model::expert_loads() const { return state_->loads; }

void Model::update_expert_biases() {
  at::NoGradGuard off;
  for (size_t i = 0; i < state_->loads.size(); ++i) {
    const auto* sparse = std::get_if<MoeMlp>(&state_->decoder.layers[i].mlp);
    if (!sparse || !sparse->router.expert_bias || !state_->loads[i].tokens_E.defined()) continue;
    at::Tensor& bias = sparse->router.expert_bias->value;
    bias.copy_(updated_expert_bias(bias, state_->loads[i].tokens_E, state_->config.moe_router_bias_update_rate));
  }
}

}  // namespace ponte
