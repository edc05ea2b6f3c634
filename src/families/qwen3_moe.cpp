// Qwen3-MoE: the attention of Qwen3 with routed experts in place of the MLP. Source: transformers models/qwen3_moe.
#include <nlohmann/json.hpp>

#include "base/errors.h"
#include "families/facts.h"
#include "families/hf_config.h"
#include "families/moe_blocks.h"

namespace ponte::qwen3_moe {

void read_config(const Json& hf, std::string_view origin, ModelConfig& config) {
  qwen3::read_config(hf, origin, config);
  read_moe_config(hf, origin, config);
  config.moe_shared_expert_intermediate_size = 0;
}

void write_config(const ModelConfig& config, Json& hf) {
  qwen3::write_config(config, hf);
  write_moe_config(config, hf);
}

RuleTable rules(const ModelConfig& config, const HfTensors& present) {
  RuleTable table;
  add_embedding(table, config);
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    const LayerPlace place{"decoder.layers", layer, config.num_layers, format("model.layers.{}.", layer)};
    add_self_attention(table, config, place);
    if (is_moe_layer(config, layer)) add_moe(table, config, place, present);
    else add_gated_mlp(table, config, place);
  }
  add_head(table, config);
  table.homogeneous = config.moe_layer_freq.empty();
  return table;
}

}  // namespace ponte::qwen3_moe
