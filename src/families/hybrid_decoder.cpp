#include "families/hybrid_decoder.h"

#include <nlohmann/json.hpp>

#include "base/errors.h"

namespace ponte {
namespace {

std::string depth_prefix(int64_t depth) { return depth == 0 ? "mtp." : format("mtp.depth{}.", depth); }

void add_mlp(RuleTable& table, const ModelConfig& config, const LayerPlace& place, bool sparse, const HfTensors& present, ExpertStorage usual) {
  if (sparse) add_moe(table, config, place, present, usual);
  else add_gated_mlp(table, config, place);
}

// Depth `k` predicts one token further: norms of both inputs, their projection, one full-attention layer, a norm.
void add_prediction_layer(RuleTable& table, const ModelConfig& config, int64_t k, const HfTensors& present) {
  const int64_t H = config.hidden_size;
  const LayerPlace outer{"mtp.layers", k, config.mtp_num_layers, depth_prefix(k)};
  const LayerPlace inner{"mtp.layers", k, config.mtp_num_layers, format("mtp.layers.{}.", k), "mtp_model_layer."};
  const std::pair<const char*, const char*> norms[] = {{"enorm", "pre_fc_norm_embedding"}, {"hnorm", "pre_fc_norm_hidden"}, {"final_layernorm", "norm"}};
  for (const auto& [native, hf] : norms) {
    table.rules.push_back(copied(outer, format("{}.weight", native), format("{}.weight", hf), {H}));
    add_extra_state(table, outer, native);
  }
  table.rules.push_back(copied(outer, "eh_proj.weight", "fc.weight", {H, 2 * H}, 0));
  add_extra_state(table, outer, "eh_proj");
  add_self_attention(table, config, inner);
  add_mlp(table, config, inner, config.num_moe_experts > 0, present, ExpertStorage::per_expert);
}

}  // namespace

RuleTable hybrid_decoder(const ModelConfig& config, const HfTensors& present, UsualStorage usual) {
  RuleTable table;
  add_embedding(table, config);
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    const LayerPlace place{"decoder.layers", layer, config.num_layers, format("model.layers.{}.", layer)};
    if (is_linear_attention(config, layer)) add_gated_delta_net(table, config, place, present, usual.in_projection);
    else add_self_attention(table, config, place);
    add_mlp(table, config, place, is_moe_layer(config, layer), present, usual.experts);
  }
  for (int64_t k = 0; k < config.mtp_num_layers; ++k) add_prediction_layer(table, config, k, present);
  add_head(table, config);
  table.homogeneous = false;
  return table;
}

int64_t prediction_depths(const HfTensors& present) {
  int64_t depths = 0;
  while (present.contains(depth_prefix(depths) + "fc.weight")) ++depths;
  return depths;
}

void read_hybrid_config(const Json& hf, std::string_view origin, ModelConfig& config) {
  require(!json_get_or<bool>(hf, "attention_bias", false, origin), "{}: attention_bias is true, which no {} checkpoint has", origin, config.hf_architecture);
  config.qk_layernorm = true;
  config.layernorm_zero_centered_gamma = true;
  config.attention_output_gate = true;
  const bool release5 = hf.contains("rope_parameters") && hf["rope_parameters"].is_object();
  if (!hf.contains("partial_rotary_factor") && !(release5 && hf["rope_parameters"].contains("partial_rotary_factor"))) config.rotary_percent = 0.25;
  read_gated_delta_config(hf, origin, config);
  const char* depths = hf.contains("mtp_num_hidden_layers") ? "mtp_num_hidden_layers" : "num_nextn_predict_layers";
  config.mtp_num_layers = json_get_or<int64_t>(hf, depths, 0, origin);
  require(config.mtp_num_layers >= 0 && config.mtp_num_layers <= 64, "{}: '{}' is {}, wanted 0 to 64", origin, depths, config.mtp_num_layers);
}

void write_hybrid_config(const ModelConfig& config, Json& hf) {
  hf["attention_bias"] = false;
  hf["head_dim"] = config.kv_channels;
  hf["partial_rotary_factor"] = config.rotary_percent;
  write_gated_delta_config(config, hf);
}

}  // namespace ponte
