// Pieces of HF's config.json that several families share.
#pragma once
#include "base/json.h"
#include "config/model_config.h"

namespace ponte {

// Which layers slide where layer_types does not say it: those from max_window_layers on, or layers 0, 2, 4, ... below it (Qwen2MoeConfig).
enum class SlidingLayers { from_max_window_layers, every_other_below_max_window_layers };
// use_sliding_window, sliding_window, max_window_layers and layer_types, as Qwen2 and Qwen3 read them.
void read_sliding_window(const Json& hf, std::string_view origin, ModelConfig& config, SlidingLayers rule = SlidingLayers::from_max_window_layers);
void write_sliding_window(const ModelConfig& config, Json& hf);

// head_dim, for families whose configuration class has no such field but whose model reads it: only where it is not hidden_size / num_attention_heads.
void write_unusual_head_dim(const ModelConfig& config, Json& hf);

}  // namespace ponte
