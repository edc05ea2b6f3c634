// The `model` section: a decoder's architecture, its run-time numerics and its parallel sizes, under Megatron's names (GPTModelProvider).
// Families translate HF's config.json to and from it; everything that builds, converts or plans a model reads only this.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/dtype.h"

namespace ponte {

struct ModelConfig {
  // Which family's rules and which HF class: HF's model_type ("qwen3") and architectures[0] ("Qwen3ForCausalLM").
  std::string model_type;
  std::string hf_architecture;

  // Sizes. Units: counts; ffn_hidden_size is one half of the gated projection.
  int64_t num_layers = 0;
  int64_t hidden_size = 0;
  int64_t ffn_hidden_size = 0;
  int64_t num_attention_heads = 0;
  int64_t num_query_groups = 0;  // key/value heads
  int64_t kv_channels = 0;       // head dimension
  int64_t vocab_size = 0;        // rows in the files; run-time padding is never stored
  int64_t seq_length = 4096;     // training sequence length
  int64_t max_position_embeddings = 0;  // HF's, carried through

  // Blocks.
  std::string normalization = "RMSNorm";
  double layernorm_epsilon = 1e-6;
  bool layernorm_zero_centered_gamma = false;
  bool gated_linear_unit = true;
  std::string activation_func = "silu";
  bool add_bias_linear = false;
  bool add_qkv_bias = false;
  bool qk_layernorm = false;
  bool share_embeddings_and_output_weights = false;
  double init_method_std = 0.02;
  double hidden_dropout = 0.0;
  double attention_dropout = 0.0;

  // Positions. rope_scaling_type: "none", "linear", "llama3", "yarn", "dynamic".
  std::string position_embedding_type = "rope";
  double rotary_base = 10000.0;
  double rotary_percent = 1.0;
  std::string rope_scaling_type = "none";
  double rope_scaling_factor = 1.0;
  double rope_low_freq_factor = 1.0;    // llama3
  double rope_high_freq_factor = 4.0;   // llama3
  int64_t original_max_position_embeddings = 0;  // llama3, yarn
  double yarn_beta_fast = 32.0;
  double yarn_beta_slow = 1.0;
  std::optional<double> yarn_mscale, yarn_mscale_all_dim, yarn_attention_factor;
  bool yarn_truncate = true;
  std::optional<int64_t> window_size;   // sliding attention of the layers that use it
  std::vector<std::string> layer_types; // per layer: "full_attention", "sliding_attention", "linear_attention"; empty: all full

  // Mixture of experts; num_moe_experts 0: dense.
  int64_t num_moe_experts = 0;
  int64_t moe_ffn_hidden_size = 0;
  int64_t moe_router_topk = 0;
  int64_t moe_shared_expert_intermediate_size = 0;
  bool moe_shared_expert_gate = false;
  std::vector<int64_t> moe_layer_freq;  // per layer 0/1; empty: every layer
  bool moe_router_pre_softmax = false;
  std::string moe_router_score_function = "softmax";
  bool moe_router_enable_expert_bias = false;
  std::optional<double> moe_router_topk_scaling_factor;
  int64_t moe_router_num_groups = 0, moe_router_group_topk = 0;
  std::string moe_router_load_balancing_type = "aux_loss";
  double moe_aux_loss_coeff = 0.0;
  double moe_z_loss_coeff = 0.0;
  double moe_router_bias_update_rate = 1e-3;
  std::optional<double> moe_expert_capacity_factor;
  bool moe_pad_expert_input_to_capacity = false;
  std::string moe_token_drop_policy = "probs";
  std::string moe_token_dispatcher_type = "alltoall";
  std::string moe_router_dtype = "fp32";
  bool moe_router_force_load_balancing = false;
  bool moe_grouped_gemm = true;

  // Hybrid layers (gated delta net) and multi-token prediction.
  bool attention_output_gate = false;
  std::string experimental_attention_variant;  // "gated_delta_net" or empty
  int64_t linear_attention_freq = 0;
  int64_t linear_conv_kernel_dim = 0;
  int64_t linear_key_head_dim = 0, linear_value_head_dim = 0;
  int64_t linear_num_key_heads = 0, linear_num_value_heads = 0;
  int64_t mtp_num_layers = 0;
  double mtp_loss_scaling_factor = 0.1;

  // Numerics of a run.
  DType params_dtype = DType::f32;
  bool fp16 = false, bf16 = false;
  bool apply_query_key_layer_scaling = false;
  bool attention_softmax_in_fp32 = true;
  bool cross_entropy_loss_fusion = true;
  bool calculate_per_token_loss = false;
  std::string recompute_granularity;  // "", "full", "selective"
  std::string recompute_method;       // "", "uniform", "block"
  int64_t recompute_num_layers = 1;
  std::vector<std::string> recompute_modules;  // selective: core_attn, mlp, layernorm, ...

  // Parallel sizes.
  int64_t tensor_model_parallel_size = 1;
  int64_t pipeline_model_parallel_size = 1;
  int64_t virtual_pipeline_model_parallel_size = 0;   // 0: none
  int64_t num_layers_per_virtual_pipeline_stage = 0;  // 0: not said; else finalize() makes the size above of it
  int64_t context_parallel_size = 1;
  int64_t expert_model_parallel_size = 1;
  int64_t expert_tensor_parallel_size = 0;  // 0: as tensor_model_parallel_size
  bool sequence_parallel = false;
  int64_t num_layers_in_first_pipeline_stage = 0, num_layers_in_last_pipeline_stage = 0;
  bool account_for_embedding_in_pipeline_split = false, account_for_loss_in_pipeline_split = false;
  std::string pipeline_model_parallel_layout;
  std::string cp_comm_type = "p2p";
  std::vector<int64_t> hierarchical_context_parallel_sizes;  // of "a2a+p2p": neighbours that trade tokens for heads; ranks of a ring of them

  // As read from HF and not understood otherwise: kept so that export writes the same config.json. A JSON object's text, or empty.
  std::string hf_config_json;
};

}  // namespace ponte
