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
// What else two models may differ in, which shows in their tensors.
constexpr std::string_view kStructure[] = {
    "model.add_qkv_bias", "model.qk_layernorm", "model.share_embeddings_and_output_weights", "model.attention_output_gate", "model.linear_conv_kernel_dim",
    "model.moe_shared_expert_intermediate_size", "model.moe_shared_expert_gate", "model.mtp_num_layers"};

bool is_among(std::span<const std::string_view> keys, const std::string& key) { return std::ranges::find(keys, key) != keys.end(); }

// Without lists that say of every layer what an empty one says, a factor of one, and the gate of an expert that is not there.
ModelConfig without_empty_words(ModelConfig model) {
  if (std::ranges::all_of(model.layer_types, [](const std::string& type) { return type == "full_attention"; })) model.layer_types.clear();
  if (std::ranges::all_of(model.moe_layer_freq, [](int64_t sparse) { return sparse != 0; })) model.moe_layer_freq.clear();
  if (model.moe_router_topk_scaling_factor == 1.0) model.moe_router_topk_scaling_factor.reset();
  if (model.moe_shared_expert_intermediate_size == 0) model.moe_shared_expert_gate = false;
  return model;
}

std::vector<ConfigDifference> differences(const ModelConfig& a, const ModelConfig& b, std::initializer_list<std::span<const std::string_view>> lists) {
  Config left, right;
  left.model = without_empty_words(a);
  right.model = without_empty_words(b);
  const bool sparse = a.num_moe_experts > 0;
  std::vector<ConfigDifference> out;
  for (ConfigDifference& difference : config_difference(left, right)) {
    if (!sparse && difference.key.starts_with("model.moe_")) continue;
    if (std::ranges::any_of(lists, [&](std::span<const std::string_view> keys) { return is_among(keys, difference.key); }))
      out.push_back(std::move(difference));
  }
  return out;
}

std::span<const std::string_view> scaling_keys(const ModelConfig& a, const ModelConfig& b) {
  if (a.rope_scaling_type == "none" && b.rope_scaling_type == "none") return {};
  return kScaling;
}

}  // namespace

std::vector<ConfigDifference> differences_in_mathematics(const ModelConfig& a, const ModelConfig& b) {
  return differences(a, b, {kMathematics, scaling_keys(a, b)});
}

std::vector<std::string> settings_config_json_cannot_say(const ModelConfig& config) {
  std::vector<std::string> out;
  ModelConfig said = model_config_from_hf(hf_config_from_model(config), "the model's settings, written as a config.json");
  if (family_of(config.hf_architecture).prediction_depths) said.mtp_num_layers = config.mtp_num_layers;  // the tensors say it
  for (const ConfigDifference& difference : differences(config, said, {kMathematics, kStructure, scaling_keys(config, said)}))
    out.push_back(difference.key + "=" + difference.left);
  return out;
}

}  // namespace ponte
