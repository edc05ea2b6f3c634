// Qwen3, dense: RMS norms on each query and key head, no biases, a head dim of its own. Source: transformers models/qwen3.
#include "families/facts.h"

#include <nlohmann/json.hpp>

#include "base/errors.h"
#include "families/blocks.h"
#include "families/hf_config.h"

namespace ponte::qwen3 {

void read_config(const Json& hf, std::string_view origin, ModelConfig& config) {
  require(!json_get_or<bool>(hf, "attention_bias", false, origin), "{}: attention_bias is true; Qwen3 checkpoints are converted without attention biases",
          origin);
  config.add_qkv_bias = false;
  config.qk_layernorm = true;
  read_sliding_window(hf, origin, config);
}

void write_config(const ModelConfig& config, Json& hf) {
  hf["attention_bias"] = false;
  hf["head_dim"] = config.kv_channels;
  write_sliding_window(config, hf);
}

RuleTable rules(const ModelConfig& config, const HfTensors&) { return dense_decoder(config); }

}  // namespace ponte::qwen3
