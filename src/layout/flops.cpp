#include "layout/flops.h"

namespace ponte {
namespace {

// The mixer's own work is told by its output projection: its columns are heads times head dimension.
double core_flops(const Rule& rule, const Shape& shape, const ModelConfig& config, int64_t seq_length) {
  const std::string_view leaf = rule.leaf;
  // Two products over half of seq_length keys.
  if (leaf.ends_with("self_attention.linear_proj.weight")) return 2.0 * static_cast<double>(shape[1]) * static_cast<double>(seq_length);
  // Per value head: k k^T, v k^T, the state's update and its product with q.
  if (leaf.ends_with("self_attention.out_proj.weight")) return 2.0 * 4.0 * static_cast<double>(shape[1]) * static_cast<double>(config.linear_value_head_dim);
  if (leaf.ends_with("self_attention.conv1d.weight")) return 2.0 * static_cast<double>(shape[0] * shape[2]);
  return 0;
}

}  // namespace

Flops forward_flops(const Rule& rule, const Shape& shape, const ModelConfig& config, int64_t seq_length) {
  if (rule.stack.empty()) return {};
  Flops out;
  if (rule.shape.size() == 2) out.matrix = 2.0 * static_cast<double>(shape[0]) * static_cast<double>(shape[1]);
  out.core = core_flops(rule, shape, config, seq_length);
  return out;
}

Flops head_flops(const ModelConfig& config) {
  return {2.0 * static_cast<double>(config.vocab_size) * static_cast<double>(config.hidden_size) * static_cast<double>(1 + config.mtp_num_layers), 0};
}

double training_flops_per_token(const ModelConfig& config, std::span<const Rule> rules, int64_t seq_length) {
  Flops forward = head_flops(config);
  for (const Rule& rule : rules) {
    // The share of tokens that meet this expert.
    const double share = rule.expert >= 0 ? static_cast<double>(config.moe_router_topk) / static_cast<double>(config.num_moe_experts) : 1.0;
    forward = forward + share * forward_flops(rule, rule.shape, config, seq_length);
  }
  return 3.0 * forward.total();
}

}  // namespace ponte
