// Qwen2-MoE (Qwen1.5-MoE): the attention of Qwen2, routed experts whose weights are not normalised again, and a shared expert with a gate. Source:
// transformers models/qwen2_moe.
#include <nlohmann/json.hpp>

#include "base/errors.h"
#include "families/facts.h"
#include "families/hf_config.h"
#include "families/moe_blocks.h"

namespace ponte::qwen2_moe {

void read_config(const Json& hf, std::string_view origin, ModelConfig& config) {
  require(json_get_or<bool>(hf, "qkv_bias", true, origin), "{}: qkv_bias is false; Qwen2-MoE checkpoints are converted with these biases", origin);
  config.add_qkv_bias = true;
  config.qk_layernorm = false;
  read_sliding_window(hf, origin, config, SlidingLayers::every_other_below_max_window_layers);
  read_moe_config(hf, origin, config);
  require(config.moe_shared_expert_intermediate_size > 0, "{}: 'shared_expert_intermediate_size' is missing", origin);
  config.moe_shared_expert_gate = true;
}

void write_config(const ModelConfig& config, Json& hf) {
  write_sliding_window(config, hf);
  write_unusual_head_dim(config, hf);
  write_moe_config(config, hf);
}

RuleTable rules(const ModelConfig& config, const HfTensors& present) { return sparse_decoder(config, present); }

}  // namespace ponte::qwen2_moe
