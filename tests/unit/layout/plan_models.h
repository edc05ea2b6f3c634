// Published models, as their config.json gives them.
#pragma once
#include "models.h"

namespace ponte::testing {

inline ModelConfig qwen3_8b() {
  return models::qwen3({.layers = 36, .hidden = 4096, .ffn = 12288, .heads = 32, .groups = 8, .head_dim = 128, .vocabulary = 151936, .positions = 40960});
}

inline ModelConfig qwen3_235b() {
  const models::Sizes sizes{.layers = 94, .hidden = 4096, .ffn = 12288, .heads = 64, .groups = 4, .head_dim = 128, .vocabulary = 151936, .positions = 40960};
  return models::with_experts(models::qwen3(sizes), {.count = 128, .chosen = 8, .ffn = 1536, .balancing = 1e-3});
}

inline ModelConfig qwen3_next_80b() {
  const models::Sizes sizes{.layers = 48, .hidden = 2048, .ffn = 5120, .heads = 16, .groups = 2, .head_dim = 256, .vocabulary = 151936, .positions = 262144};
  const ModelConfig sparse = models::with_shared_expert(models::with_experts(models::qwen3(sizes), {.count = 512, .chosen = 10, .ffn = 512}), 512);
  ModelConfig c = models::with_linear_attention(sparse, {.key_heads = 16, .value_heads = 32, .key_dim = 128, .value_dim = 128, .frequency = 4});
  c.mtp_num_layers = 1;
  return c;
}

}  // namespace ponte::testing
