// OLMoE: routed experts whose weights are not normalised again, and norms over all heads of the queries and of the keys at once. Source: transformers
// models/olmoe.
#include <nlohmann/json.hpp>

#include "base/errors.h"
#include "families/facts.h"
#include "families/moe_blocks.h"

namespace ponte::olmoe {

void read_config(const Json& hf, std::string_view origin, ModelConfig& config) {
  require(!json_get_or<bool>(hf, "attention_bias", false, origin),
          "{}: attention_bias is true; OLMoE checkpoints are converted without attention biases", origin);
  const Json clip = hf.value("clip_qkv", Json());
  require(clip.is_null(), "{}: clip_qkv is {}; clipped queries, keys and values are not supported", origin, clip.dump());
  config.qk_layernorm = true;
  Json experts = hf;
  experts["moe_intermediate_size"] = config.ffn_hidden_size;  // intermediate_size is an expert's
  read_moe_config(experts, origin, config);
  config.moe_router_load_balancing_type = "seq_aux_loss";
  // OlmoeConfig's defaults where the other families have others.
  config.layernorm_epsilon = json_get_or<double>(hf, "rms_norm_eps", 1e-5, origin);
  config.moe_aux_loss_coeff = json_get_or<double>(hf, "router_aux_loss_coef", 0.01, origin);
  if (!hf.contains("max_position_embeddings")) config.max_position_embeddings = config.seq_length = 4096;
}

void write_config(const ModelConfig& config, Json& hf) {
  hf["attention_bias"] = false;
  hf["clip_qkv"] = nullptr;
  write_moe_config(config, hf);
  hf["intermediate_size"] = config.moe_ffn_hidden_size;
  for (const char* key : {"moe_intermediate_size", "decoder_sparse_step", "mlp_only_layers"}) hf.erase(key);
}

RuleTable rules(const ModelConfig& config, const HfTensors& present) {
  ModelConfig without_norms = config;
  without_norms.qk_layernorm = false;
  RuleTable table;
  add_embedding(table, config);
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    const LayerPlace place{"decoder.layers", layer, config.num_layers, format("model.layers.{}.", layer)};
    add_self_attention(table, without_norms, place);
    for (const auto& [which, heads] : {std::pair{"q", config.num_attention_heads}, {"k", config.num_query_groups}}) {
      table.rules.push_back(copied(place, format("self_attention.{}_layernorm.weight", which), format("self_attn.{}_norm.weight", which),
                                   {heads * config.kv_channels}));
      add_extra_state(table, place, format("self_attention.{}_layernorm", which));
    }
    add_moe(table, config, place, present);
  }
  add_head(table, config);
  return table;
}

}  // namespace ponte::olmoe
