// Configurations that tests and benchmarks build their models from: Qwen3, with routed experts and Qwen3-Next's layers on top.
#pragma once
#include "config/model_config.h"

namespace ponte::models {

struct Sizes {
  int64_t layers, hidden, ffn, heads, groups, head_dim, vocabulary;
  int64_t positions = 128;
};

inline ModelConfig qwen3(const Sizes& sizes) {
  ModelConfig c;
  c.model_type = "qwen3";
  c.hf_architecture = "Qwen3ForCausalLM";
  c.num_layers = sizes.layers;
  c.hidden_size = sizes.hidden;
  c.ffn_hidden_size = sizes.ffn;
  c.num_attention_heads = sizes.heads;
  c.num_query_groups = sizes.groups;
  c.kv_channels = sizes.head_dim;
  c.vocab_size = sizes.vocabulary;
  c.max_position_embeddings = sizes.positions;
  c.qk_layernorm = true;
  return c;
}

// Qwen3-MoE: `chosen` of `count` experts for each token.
struct Experts {
  int64_t count, chosen, ffn;
  double balancing = 0;  // moe_aux_loss_coeff
};

inline ModelConfig with_experts(ModelConfig c, const Experts& experts) {
  c.model_type = "qwen3_moe";
  c.hf_architecture = "Qwen3MoeForCausalLM";
  c.num_moe_experts = experts.count;
  c.moe_router_topk = experts.chosen;
  c.moe_ffn_hidden_size = experts.ffn;
  c.moe_aux_loss_coeff = experts.balancing;
  return c;
}

inline ModelConfig with_shared_expert(ModelConfig c, int64_t ffn) {
  c.moe_shared_expert_intermediate_size = ffn;
  c.moe_shared_expert_gate = true;
  return c;
}

// Gated delta nets, and gated full attention in every `frequency`th layer.
struct LinearAttention {
  int64_t key_heads, value_heads, key_dim, value_dim, frequency;
  double rotary_percent = 0.25;
};

inline ModelConfig with_linear_attention(ModelConfig c, const LinearAttention& linear) {
  c.model_type = "qwen3_next";
  c.hf_architecture = "Qwen3NextForCausalLM";
  c.layernorm_zero_centered_gamma = c.attention_output_gate = true;
  c.rotary_percent = linear.rotary_percent;
  c.experimental_attention_variant = "gated_delta_net";
  c.linear_conv_kernel_dim = 4;
  c.linear_num_key_heads = linear.key_heads;
  c.linear_num_value_heads = linear.value_heads;
  c.linear_key_head_dim = linear.key_dim;
  c.linear_value_head_dim = linear.value_dim;
  c.linear_attention_freq = linear.frequency;
  for (int64_t i = 1; i <= c.num_layers; ++i) c.layer_types.push_back(i % linear.frequency == 0 ? "full_attention" : "linear_attention");
  return c;
}

}  // namespace ponte::models
