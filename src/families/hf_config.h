// Pieces of HF's config.json that several families share.
#pragma once
#include "base/json.h"
#include "config/model_config.h"

namespace ponte {

// use_sliding_window, sliding_window, max_window_layers and layer_types, as Qwen2 and Qwen3 read them.
void read_sliding_window(const Json& hf, std::string_view origin, ModelConfig& config);
void write_sliding_window(const ModelConfig& config, Json& hf);

// head_dim, for families whose configuration class has no such field but whose model reads it: only where it is not hidden_size / num_attention_heads.
void write_unusual_head_dim(const ModelConfig& config, Json& hf);

}  // namespace ponte
