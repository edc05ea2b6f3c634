// Published models, as their config.json gives them.
#pragma once
#include "config/model_config.h"

namespace ponte::testing {

inline ModelConfig qwen3_8b() {
  ModelConfig c;
  c.model_type = "qwen3";
  c.hf_architecture = "Qwen3ForCausalLM";
  c.num_layers = 36;
  c.hidden_size = 4096;
  c.ffn_hidden_size = 12288;
  c.num_attention_heads = 32;
  c.num_query_groups = 8;
  c.kv_channels = 128;
  c.vocab_size = 151936;
  c.max_position_embeddings = 40960;
  c.qk_layernorm = true;
  return c;
}

inline ModelConfig qwen3_235b() {
  ModelConfig c = qwen3_8b();
  c.model_type = "qwen3_moe";
  c.hf_architecture = "Qwen3MoeForCausalLM";
  c.num_layers = 94;
  c.num_attention_heads = 64;
  c.num_query_groups = 4;
  c.num_moe_experts = 128;
  c.moe_ffn_hidden_size = 1536;
  c.moe_router_topk = 8;
  c.moe_aux_loss_coeff = 1e-3;
  return c;
}

inline ModelConfig qwen3_next_80b() {
  ModelConfig c;
  c.model_type = "qwen3_next";
  c.hf_architecture = "Qwen3NextForCausalLM";
  c.num_layers = 48;
  c.hidden_size = 2048;
  c.ffn_hidden_size = 5120;
  c.num_attention_heads = 16;
  c.num_query_groups = 2;
  c.kv_channels = 256;
  c.vocab_size = 151936;
  c.max_position_embeddings = 262144;
  c.qk_layernorm = c.layernorm_zero_centered_gamma = c.attention_output_gate = true;
  c.rotary_percent = 0.25;
  c.num_moe_experts = 512;
  c.moe_ffn_hidden_size = 512;
  c.moe_router_topk = 10;
  c.moe_shared_expert_intermediate_size = 512;
  c.moe_shared_expert_gate = true;
  c.experimental_attention_variant = "gated_delta_net";
  c.linear_attention_freq = 4;
  c.linear_conv_kernel_dim = 4;
  c.linear_key_head_dim = c.linear_value_head_dim = 128;
  c.linear_num_key_heads = 16;
  c.linear_num_value_heads = 32;
  c.mtp_num_layers = 1;
  for (int64_t i = 0; i < c.num_layers; ++i) c.layer_types.push_back((i + 1) % 4 == 0 ? "full_attention" : "linear_attention");
  return c;
}

}  // namespace ponte::testing
