// Qwen3-MoE: the attention of Qwen3 with routed experts in place of the MLP. Source: transformers models/qwen3_moe.
#include <nlohmann/json.hpp>

#include "base/errors.h"
#include "families/facts.h"
#include "families/hf_config.h"
#include "families/moe_blocks.h"

namespace ponte::qwen3_moe {

void read_config(const Json& hf, std::string_view origin, ModelConfig& config) {
  qwen3::read_config(hf, origin, config);
  // Qwen3MoeAttention looks at the window alone, at no layer's type.
  if (config.window_size) config.layer_types.assign(static_cast<size_t>(config.num_layers), "sliding_attention");
  read_moe_config(hf, origin, config);
  config.moe_shared_expert_intermediate_size = 0;
}

void write_config(const ModelConfig& config, Json& hf) {
  qwen3::write_config(config, hf);
  write_moe_config(config, hf);
}

RuleTable rules(const ModelConfig& config, const HfTensors& present) { return sparse_decoder(config, present); }

}  // namespace ponte::qwen3_moe
