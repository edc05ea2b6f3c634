// Rows of the `model` section. What an HF model determines comes first; the rest belongs to the run.
#include "config/field_types.h"

namespace ponte {
namespace {

void list_architecture(Listing<ModelConfig>& row) {
  using M = ModelConfig;
  row.role(FieldRole::architecture);
  row("model_type", &M::model_type, none_is_null, "HF's model_type; chooses the family, e.g. qwen3");
  row("hf_architecture", &M::hf_architecture, none_is_null, "HF's architectures[0], e.g. Qwen3ForCausalLM");
  row("num_layers", &M::num_layers, "decoder layers");
  row("hidden_size", &M::hidden_size, "width of the residual stream");
  row("ffn_hidden_size", &M::ffn_hidden_size, "width of the feed-forward block; one half of the gated projection");
  row("num_attention_heads", &M::num_attention_heads, "query heads");
  row("num_query_groups", &M::num_query_groups, "key/value heads");
  row("kv_channels", &M::kv_channels, "head dimension");
  row("vocab_size", &M::vocab_size, "rows of the embedding in the files");
  row("max_position_embeddings", &M::max_position_embeddings, "longest sequence the model was made for; carried to the exported config.json");
  row("normalization", &M::normalization, {"RMSNorm", "LayerNorm"}, "kind of norm");
  row("layernorm_epsilon", &M::layernorm_epsilon, "epsilon of the norms");
  row("layernorm_zero_centered_gamma", &M::layernorm_zero_centered_gamma, "norm weights are stored as w - 1");
  row("gated_linear_unit", &M::gated_linear_unit, "feed-forward block with a gate (SwiGLU with activation_func silu)");
  row("activation_func", &M::activation_func, {"silu", "gelu", "gelu_tanh", "relu", "squared_relu", "quick_gelu"},
      "activation of the feed-forward block");
  row("add_bias_linear", &M::add_bias_linear, "biases in all linear layers");
  row("add_qkv_bias", &M::add_qkv_bias, "bias in the query/key/value projection");
  row("qk_layernorm", &M::qk_layernorm, "norm on queries and keys, per head");
  row("share_embeddings_and_output_weights", &M::share_embeddings_and_output_weights, "the output layer is the embedding");
  row("init_method_std", &M::init_method_std, "standard deviation of new weights");
  row("hidden_dropout", &M::hidden_dropout, "dropout on the residual stream");
  row("attention_dropout", &M::attention_dropout, "dropout on attention probabilities");
  row("position_embedding_type", &M::position_embedding_type, {"rope", "none"},
      "position encoding; Bridge's yarn reads as rope with rope_scaling_type yarn");
  row("rotary_base", &M::rotary_base, "base of the rotary frequencies (HF's rope_theta)");
  row("rotary_percent", &M::rotary_percent, "share of each head that is rotated");
  row("rope_scaling_type", &M::rope_scaling_type, {"none", "linear", "llama3", "yarn", "dynamic"}, "how rotary frequencies are stretched");
  row("rope_scaling_factor", &M::rope_scaling_factor, "stretch of the context");
  row("rope_low_freq_factor", &M::rope_low_freq_factor, "llama3 scaling");
  row("rope_high_freq_factor", &M::rope_high_freq_factor, "llama3 scaling");
  row("original_max_position_embeddings", &M::original_max_position_embeddings, none_is_null, "llama3, yarn: context before stretching");
  row("yarn_beta_fast", &M::yarn_beta_fast, "yarn: upper rotation bound");
  row("yarn_beta_slow", &M::yarn_beta_slow, "yarn: lower rotation bound");
  row("yarn_mscale", &M::yarn_mscale, "yarn: attention scale");
  row("yarn_mscale_all_dim", &M::yarn_mscale_all_dim, "yarn: attention scale over all dimensions");
  row("yarn_attention_factor", &M::yarn_attention_factor, "yarn: attention factor in place of the computed one");
  row("yarn_truncate", &M::yarn_truncate, "yarn: round the correction range to whole dimensions");
  row("window_size", &M::window_size, "sliding attention: tokens seen, the own included");
  row("layer_types", &M::layer_types, "per layer: full_attention, sliding_attention or linear_attention (full, sliding, linear for short); empty: all full");
  row("num_moe_experts", &M::num_moe_experts, none_is_null, "experts per layer; null: dense");
  row("moe_ffn_hidden_size", &M::moe_ffn_hidden_size, none_is_null, "width of one expert");
  row("moe_router_topk", &M::moe_router_topk, "experts per token");
  row("moe_shared_expert_intermediate_size", &M::moe_shared_expert_intermediate_size, none_is_null, "width of the shared expert; null: none");
  row("moe_shared_expert_gate", &M::moe_shared_expert_gate, "sigmoid gate on the shared expert");
  row("moe_layer_freq", &M::moe_layer_freq,
      "per layer 1 (experts) or 0 (dense), also as ([0]+[1]*23), or a number N: experts in layers 0, N, 2N, ...; empty: in every layer");
  row("moe_router_pre_softmax", &M::moe_router_pre_softmax, "softmax before the choice of experts");
  row("moe_router_score_function", &M::moe_router_score_function, {"softmax", "sigmoid"}, "scores of the router");
  row("moe_router_enable_expert_bias", &M::moe_router_enable_expert_bias, "balancing bias per expert");
  row("moe_router_topk_scaling_factor", &M::moe_router_topk_scaling_factor, "factor on the chosen experts' weights");
  row("moe_router_num_groups", &M::moe_router_num_groups, none_is_null, "groups of experts for group-limited routing");
  row("moe_router_group_topk", &M::moe_router_group_topk, none_is_null, "groups per token");
  row("moe_aux_loss_coeff", &M::moe_aux_loss_coeff, "weight of the load-balancing loss");
  row("attention_output_gate", &M::attention_output_gate, "gate on the attention output");
  row("experimental_attention_variant", &M::experimental_attention_variant, none_is_null, {"gated_delta_net"},
      "mixer of the linear_attention layers");
  row("linear_attention_freq", &M::linear_attention_freq, none_is_null,
      "every n-th layer has full attention, or a list of 1 (linear) and 0, also as ([1]*3+[0])*6: another way to say layer_types");
  row("linear_conv_kernel_dim", &M::linear_conv_kernel_dim, none_is_null, "gated delta net: convolution width");
  row("linear_key_head_dim", &M::linear_key_head_dim, none_is_null, "gated delta net: key head dimension");
  row("linear_value_head_dim", &M::linear_value_head_dim, none_is_null, "gated delta net: value head dimension");
  row("linear_num_key_heads", &M::linear_num_key_heads, none_is_null, "gated delta net: key heads");
  row("linear_num_value_heads", &M::linear_num_value_heads, none_is_null, "gated delta net: value heads");
  row("mtp_num_layers", &M::mtp_num_layers, none_is_null, "multi-token prediction layers");
}

void list_run(Listing<ModelConfig>& row) {
  using M = ModelConfig;
  row.role(FieldRole::run);
  row("seq_length", &M::seq_length, "tokens per training sequence");
  row("mtp_loss_scaling_factor", &M::mtp_loss_scaling_factor, "weight of the multi-token prediction loss");
  row("moe_router_load_balancing_type", &M::moe_router_load_balancing_type, {"aux_loss", "seq_aux_loss", "global_aux_loss", "sinkhorn", "none"},
      "how experts are kept evenly used");
  row("moe_z_loss_coeff", &M::moe_z_loss_coeff, none_is_null, "weight of the router's z-loss");
  row("moe_router_bias_update_rate", &M::moe_router_bias_update_rate, "step of the balancing bias");
  row("moe_expert_capacity_factor", &M::moe_expert_capacity_factor, "tokens per expert relative to an even share; null: no token is dropped");
  row("moe_pad_expert_input_to_capacity", &M::moe_pad_expert_input_to_capacity,
      "Megatron fills every expert's input up to its capacity with tokens of weight zero: "
      "the same results in fixed shapes, which Ponte's experts do without; wants moe_expert_capacity_factor");
  row("moe_token_drop_policy", &M::moe_token_drop_policy, {"probs", "position"}, "which tokens go when an expert is full");
  row("moe_token_dispatcher_type", &M::moe_token_dispatcher_type, {"alltoall", "allgather", "flex"}, "how tokens reach their experts");
  row("moe_router_dtype", &M::moe_router_dtype, none_is_null, {"fp32", "fp64"}, "precision of the router; null: the model's");
  row("moe_router_force_load_balancing", &M::moe_router_force_load_balancing, "random even routing, for measurements only");
  row("moe_grouped_gemm", &M::moe_grouped_gemm, "one multiplication for all local experts");
  row("params_dtype", &M::params_dtype, "dtype of the parameters; set by mixed_precision unless that is null");
  row("fp16", &M::fp16, "run in fp16; set by mixed_precision unless that is null");
  row("bf16", &M::bf16, "run in bf16; set by mixed_precision unless that is null");
  row("apply_query_key_layer_scaling", &M::apply_query_key_layer_scaling, "scale attention scores by 1/layer");
  row("attention_softmax_in_fp32", &M::attention_softmax_in_fp32, "attention softmax in fp32");
  row("cross_entropy_loss_fusion", &M::cross_entropy_loss_fusion, "output layer and cross entropy in one operation");
  row("calculate_per_token_loss", &M::calculate_per_token_loss,
      "accepted for Bridge's sake: the loss is always the sum over tokens divided by the step's valid tokens");
  row("recompute_granularity", &M::recompute_granularity, none_is_null, {"full", "selective"},
      "what is computed again in the backward pass instead of kept");
  row("recompute_method", &M::recompute_method, none_is_null, {"uniform", "block"},
      "full recompute: in groups of recompute_num_layers, or the first so many");
  row("recompute_num_layers", &M::recompute_num_layers, none_is_null, "full recompute: layers per group (uniform) or layers recomputed (block)");
  row("recompute_modules", &M::recompute_modules, "selective recompute: core_attn, mlp, layernorm, moe, moe_act, shared_experts");
  row("tensor_model_parallel_size", &M::tensor_model_parallel_size, "ranks that share each layer");
  row("pipeline_model_parallel_size", &M::pipeline_model_parallel_size, "groups of layers on different ranks");
  row("virtual_pipeline_model_parallel_size", &M::virtual_pipeline_model_parallel_size, none_is_null, "model chunks per pipeline rank");
  row("num_layers_per_virtual_pipeline_stage", &M::num_layers_per_virtual_pipeline_stage, none_is_null,
      "layers per model chunk: another way to say virtual_pipeline_model_parallel_size");
  row("context_parallel_size", &M::context_parallel_size, "ranks that share each sequence");
  row("expert_model_parallel_size", &M::expert_model_parallel_size, "ranks that share the experts of a layer");
  row("expert_tensor_parallel_size", &M::expert_tensor_parallel_size, none_is_null, "ranks that share each expert; null: tensor_model_parallel_size");
  row("sequence_parallel", &M::sequence_parallel, "shard norms and dropout over the tensor-parallel ranks by sequence");
  row("num_layers_in_first_pipeline_stage", &M::num_layers_in_first_pipeline_stage, none_is_null, "layers of the first stage; null: an even share");
  row("num_layers_in_last_pipeline_stage", &M::num_layers_in_last_pipeline_stage, none_is_null, "layers of the last stage; null: an even share");
  row("account_for_embedding_in_pipeline_split", &M::account_for_embedding_in_pipeline_split, "count the embedding as a layer when splitting");
  row("account_for_loss_in_pipeline_split", &M::account_for_loss_in_pipeline_split, "count the loss as a layer when splitting");
  row("pipeline_model_parallel_layout", &M::pipeline_model_parallel_layout, none_is_null, "explicit stages, e.g. \"Et*4|(tttt|)*14tmL\"");
  row("cp_comm_type", &M::cp_comm_type, none_is_null, {"p2p", "a2a", "all_gather", "a2a+p2p"}, "how context-parallel ranks exchange keys and values");
  row("hierarchical_context_parallel_sizes", &M::hierarchical_context_parallel_sizes, none_is_null,
      "cp_comm_type a2a+p2p: how many neighbours trade tokens for heads, and how many such runs pass keys and values around");
}

}  // namespace

void list_model(std::vector<Field>& rows) {
  Listing<ModelConfig> row(rows, "model", &Config::model);
  list_architecture(row);
  list_run(row);
  row.role(FieldRole::internal)("hf_config_json", &ModelConfig::hf_config_json, none_is_null, "");
}

}  // namespace ponte
