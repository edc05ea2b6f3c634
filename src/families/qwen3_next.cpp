// Qwen3-Next: gated delta net layers with a gated full-attention layer among them, sparse MLPs with a shared expert, zero-centred norms, and a
// multi-token prediction head. Source: transformers models/qwen3_next; mtp.* as in the published checkpoints (transformers ignores it).
#include <nlohmann/json.hpp>

#include "base/errors.h"
#include "families/facts.h"
#include "families/gated_delta_blocks.h"
#include "families/moe_blocks.h"

namespace ponte::qwen3_next {
namespace {

void add_layer(RuleTable& table, const ModelConfig& config, const LayerPlace& place, bool linear, bool sparse, const HfTensors& present) {
  if (linear) add_gated_delta_net(table, config, place, present);
  else add_self_attention(table, config, place);
  if (sparse) add_moe(table, config, place, present);
  else add_gated_mlp(table, config, place);
}

// Depth `k` predicts one token further: norms of both inputs, their projection, one full-attention layer, a norm.
void add_prediction_layer(RuleTable& table, const ModelConfig& config, int64_t k, const HfTensors& present) {
  const int64_t H = config.hidden_size;
  const LayerPlace outer{"mtp.layers", k, config.mtp_num_layers, "mtp."};
  const std::pair<const char*, const char*> norms[] = {{"enorm", "pre_fc_norm_embedding"}, {"hnorm", "pre_fc_norm_hidden"}, {"final_layernorm", "norm"}};
  for (const auto& [native, hf] : norms) {
    table.rules.push_back(copied(outer, format("{}.weight", native), format("{}.weight", hf), {H}));
    add_extra_state(table, outer, native);
  }
  table.rules.push_back(copied(outer, "eh_proj.weight", "fc.weight", {H, 2 * H}, 0));
  add_extra_state(table, outer, "eh_proj");
  add_layer(table, config, {"mtp.layers", k, config.mtp_num_layers, format("mtp.layers.{}.", k), "mtp_model_layer."}, false, config.num_moe_experts > 0, present);
}

}  // namespace

void read_config(const Json& hf, std::string_view origin, ModelConfig& config) {
  require(!json_get_or<bool>(hf, "attention_bias", false, origin), "{}: attention_bias is true, which no Qwen3-Next checkpoint has", origin);
  config.qk_layernorm = true;
  config.layernorm_zero_centered_gamma = true;
  config.attention_output_gate = true;
  if (!hf.contains("rope_parameters") && !hf.contains("partial_rotary_factor")) config.rotary_percent = 0.25;
  read_gated_delta_config(hf, origin, config);
  read_moe_config(hf, origin, config);
  config.moe_shared_expert_gate = config.moe_shared_expert_intermediate_size > 0;
  config.moe_router_load_balancing_type = "global_aux_loss";
  config.mtp_num_layers = json_get_or<int64_t>(hf, "num_nextn_predict_layers", 0, origin);
  require(config.mtp_num_layers == 0 || config.mtp_num_layers == 1, "{}: {} multi-token prediction layers; the published layout of mtp.* holds one", origin,
          config.mtp_num_layers);
}

void write_config(const ModelConfig& config, Json& hf) {
  hf["attention_bias"] = false;
  hf["head_dim"] = config.kv_channels;
  hf["partial_rotary_factor"] = config.rotary_percent;
  write_gated_delta_config(config, hf);
  write_moe_config(config, hf);
}

RuleTable rules(const ModelConfig& config, const HfTensors& present) {
  RuleTable table;
  add_embedding(table, config);
  for (int64_t layer = 0; layer < config.num_layers; ++layer)
    add_layer(table, config, {"decoder.layers", layer, config.num_layers, format("model.layers.{}.", layer)}, is_linear_attention(config, layer),
              is_moe_layer(config, layer), present);
  // Names decide: a config may be silent about a head that the weights have, and the other way round.
  const bool head = present.empty() ? config.mtp_num_layers > 0 : present.contains("mtp.fc.weight");
  if (head) {
    ModelConfig with_head = config;
    with_head.mtp_num_layers = 1;
    add_prediction_layer(table, with_head, 0, present);
  }
  add_head(table, config);
  table.homogeneous = false;
  return table;
}

}  // namespace ponte::qwen3_next
