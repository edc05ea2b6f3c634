#include "config/limits.h"

#include "base/format.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace ponte {

int64_t longest_sequence(const ModelConfig& c) {
  if (c.max_position_embeddings <= 0) return std::numeric_limits<int64_t>::max();
  const bool stretched = c.rope_scaling_type == "linear" || c.rope_scaling_type == "dynamic" || c.rope_scaling_type == "yarn";
  if (!stretched || !(c.rope_scaling_factor > 1)) return c.max_position_embeddings;
  const int64_t original = c.original_max_position_embeddings > 0 ? c.original_max_position_embeddings : c.max_position_embeddings;
  return std::max(c.max_position_embeddings, static_cast<int64_t>(std::llround(static_cast<double>(original) * c.rope_scaling_factor)));
}

std::string wrong_routing(const ModelConfig& m) {
  if (m.num_moe_experts == 0) return "";
  if (m.moe_router_topk < 1 || m.moe_router_topk > m.num_moe_experts)
    return format("model.moe_router_topk is {}, with {} experts", m.moe_router_topk, m.num_moe_experts);
  if (m.moe_router_topk_scaling_factor && !(*m.moe_router_topk_scaling_factor > 0))
    return format("model.moe_router_topk_scaling_factor is {}, it must be positive, or null for none", *m.moe_router_topk_scaling_factor);
  if (m.moe_expert_capacity_factor == 0.0) return "model.moe_expert_capacity_factor is 0, which drops every token; null drops none";
  const int64_t groups = m.moe_router_num_groups, open = m.moe_router_group_topk;
  if (open == 0) return "";
  if (groups < 1 || m.num_moe_experts % groups != 0)
    return format("model.moe_router_num_groups is {}, which {} experts do not divide into", groups, m.num_moe_experts);
  if (open < 0 || open > groups || m.moe_router_topk % open != 0)
    return format("model.moe_router_group_topk is {}, wanted up to {} groups over which {} experts for each token divide", open, groups, m.moe_router_topk);
  if (m.moe_router_topk / open > m.num_moe_experts / groups)
    return format("model.moe_router_group_topk is {}: {} experts for each token are not in {} groups of {}", open, m.moe_router_topk, open,
                  m.num_moe_experts / groups);
  return "";
}

}  // namespace ponte
