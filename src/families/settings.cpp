#include "families/settings.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/errors.h"
#include "families/registry.h"

namespace ponte {
namespace {

constexpr std::string_view kMathematics[] = {
    "model.num_attention_heads", "model.num_query_groups", "model.kv_channels", "model.layernorm_epsilon", "model.layernorm_zero_centered_gamma",
    "model.activation_func", "model.rotary_base", "model.rotary_percent", "model.rope_scaling_type", "model.window_size", "model.layer_types",
    "model.moe_router_topk", "model.moe_layer_freq", "model.moe_router_pre_softmax", "model.moe_router_score_function", "model.moe_router_topk_scaling_factor",
    "model.moe_router_num_groups", "model.moe_router_group_topk", "model.linear_key_head_dim", "model.linear_value_head_dim", "model.linear_num_key_heads",
    "model.linear_num_value_heads"};
// Of a scaled rotary embedding alone.
constexpr std::string_view kScaling[] = {
    "model.position_embedding_type", "model.rope_scaling_factor", "model.rope_low_freq_factor", "model.rope_high_freq_factor",
    "model.original_max_position_embeddings", "model.yarn_beta_fast", "model.yarn_beta_slow", "model.yarn_mscale", "model.yarn_mscale_all_dim",
    "model.yarn_attention_factor", "model.yarn_truncate"};

bool is_among(std::span<const std::string_view> keys, const std::string& key) { return std::ranges::find(keys, key) != keys.end(); }

// Lists that say of every layer what an empty one says.
ModelConfig without_empty_words(ModelConfig model) {
  if (std::ranges::all_of(model.layer_types, [](const std::string& type) { return type == "full_attention"; })) model.layer_types.clear();
  if (std::ranges::all_of(model.moe_layer_freq, [](int64_t sparse) { return sparse != 0; })) model.moe_layer_freq.clear();
  if (model.moe_router_topk_scaling_factor == 1.0) model.moe_router_topk_scaling_factor.reset();
  return model;
}

}  // namespace

std::vector<ConfigDifference> differences_in_mathematics(const ModelConfig& a, const ModelConfig& b) {
  Config left, right;
  left.model = without_empty_words(a);
  right.model = without_empty_words(b);
  const bool scaled = a.rope_scaling_type != "none" || b.rope_scaling_type != "none";
  const bool sparse = a.num_moe_experts > 0;
  std::vector<ConfigDifference> out;
  for (ConfigDifference& difference : config_difference(left, right)) {
    if (!sparse && difference.key.starts_with("model.moe_")) continue;
    if (is_among(kMathematics, difference.key) || (scaled && is_among(kScaling, difference.key))) out.push_back(std::move(difference));
  }
  return out;
}

std::vector<std::string> settings_config_json_cannot_say(const ModelConfig& config) {
  std::vector<std::string> out;
  const ModelConfig said = model_config_from_hf(hf_config_from_model(config), "the model's config.json");
  for (const ConfigDifference& difference : differences_in_mathematics(config, said)) out.push_back(difference.key + "=" + difference.left);
  return out;
}

}  // namespace ponte
