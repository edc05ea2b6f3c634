// Losses are means over the sparse layers, as Megatron logs them. A load of 1 is an even share.
#include "train/expert_report.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstdio>

#include "base/format.h"

namespace ponte {
namespace {

std::vector<double> even_shares(const ExpertLoad& load) {
  const at::Tensor shares = (load.tokens_E / load.tokens_E.mean()).to(at::kCPU, at::kDouble).contiguous();
  return {shares.const_data_ptr<double>(), shares.const_data_ptr<double>() + shares.numel()};
}

}  // namespace

ExpertSummary summarize_experts(const RankModel& model) {
  ExpertSummary out;
  const auto loads = model.expert_loads();
  double balancing = 0, z = 0, busiest = 0;
  int64_t layers = 0;
  for (size_t i = 0; i < loads.size(); ++i) {
    if (!loads[i].tokens_E.defined() || loads[i].tokens == 0) continue;
    const std::vector<double> shares = even_shares(loads[i]);
    const auto [least, most] = std::ranges::minmax(shares);
    out.extremes.push_back({format("moe/layer_{}/busiest_expert", i), most});
    out.extremes.push_back({format("moe/layer_{}/idlest_expert", i), least});
    out.loads.push_back(shares);
    out.load_tags.push_back(format("moe/layer_{}/expert_load", i));
    balancing += loads[i].balancing;
    z += loads[i].z;
    busiest = std::max(busiest, most);
    ++layers;
  }
  char text[64];
  const auto add = [&](const std::string& name, double value) {
    std::snprintf(text, sizeof text, " %s: %.6E |", name.c_str(), value);
    out.log += text;
    out.losses.push_back({name, value});
  };
  const auto predictions = model.prediction_losses();
  for (size_t k = 0; k < predictions.size(); ++k) add(format("mtp_{} loss", k + 1), predictions[k].sum / std::max(predictions[k].tokens, 1.0));
  if (layers == 0) return out;
  balancing /= static_cast<double>(layers);
  z /= static_cast<double>(layers);
  const ModelConfig& c = model.config();
  const bool balanced = c.moe_aux_loss_coeff != 0 && c.moe_router_load_balancing_type != "none", with_z = c.moe_z_loss_coeff != 0;
  if (balanced) add("load_balancing_loss", balancing);
  if (with_z) add("z_loss", z);
  std::snprintf(text, sizeof text, " busiest expert: %.2f |", busiest);
  out.log += text;
  return out;
}

}  // namespace ponte
