// Qwen2 and Qwen2.5, dense: biases on query, key and value. Source: transformers models/qwen2.
#include "families/facts.h"

#include <nlohmann/json.hpp>

#include "families/blocks.h"
#include "families/hf_config.h"

namespace ponte::qwen2 {

void read_config(const Json& hf, std::string_view origin, ModelConfig& config) {
  config.add_qkv_bias = true;
  config.qk_layernorm = false;
  read_sliding_window(hf, origin, config);
}

void write_config(const ModelConfig& config, Json& hf) {
  write_sliding_window(config, hf);
  write_unusual_head_dim(config, hf);
}

RuleTable rules(const ModelConfig& config, const HfTensors&) { return dense_decoder(config); }

}  // namespace ponte::qwen2
