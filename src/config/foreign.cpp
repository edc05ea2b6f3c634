// The tables of Megatron Bridge's keys that are no keys here, collected from its config classes and run_config.yaml files (0.3.1 to 0.7).
#include "config/foreign.h"

#include <algorithm>

#include "base/format.h"

namespace ponte {
namespace {

struct ForeignNames {
  std::string_view section, keys;  // keys separated by spaces
};

// Any value: these steer machinery of Bridge's (kernel choices, CUDA graphs, third-party loggers, its own derived values); no result of a
// run depends on them.
constexpr ForeignNames kAnyValue[] = {
    {"checkpoint",
     "async_ckpt_cpu_priority async_ckpt_io_priority async_ckpt_use_cpu_shm async_strategy async_write_results_mp_mode "
     "auto_detect_ckpt_format ckpt_assume_constant_structure ckpt_convert_save ckpt_convert_update_legacy_dist_opt_format "
     "ckpt_fully_parallel_load_exchange_algo ckpt_fully_parallel_load_per_rank_objects ckpt_fully_parallel_load_process_group "
     "ckpt_fully_parallel_save_process_group ckpt_load_validate_sharding_integrity ckpt_pg_tensors_cache_create "
     "ckpt_pg_tensors_cache_path dist_ckpt_workers distrib_optim_fully_reshardable_mem_efficient hf_distributed_save "
     "hf_save_every_n_ranks hf_source_path hf_trust_remote_code non_persistent_global_ckpt_dir non_persistent_local_ckpt_algo "
     "non_persistent_local_ckpt_dir replication_factor replication_jump storage_writers_per_rank strict_fsdp_dtensor_load "
     "use_persistent_ckpt_worker use_tokenizer_model_from_checkpoint_args verify_integrity"},
    {"comm_overlap",
     "align_param_gather bucket_size data_parallel_size defer_embedding_wgrad_compute delay_wgrad_compute "
     "overlap_param_gather_with_optimizer_step tp_comm_bootstrap_backend tp_comm_overlap_cfg wgrad_deferral_limit"},
    {"dataset",
     "context_parallel_size create_attention_mask data_parallel_size dataloader_load dataloader_save defer_npy_index_mmap do_test "
     "do_train do_validation drop_last enable_offline_packing fast_cache_load hf_output_root hf_rewrite hf_validation_proportion "
     "memmap_workers num_dataset_builder_threads object_storage_cache_path persistent_workers pin_memory sequence_parallel_size "
     "split_matrix token_dtype_code tokenizer trust_remote_code"},
    {"ddp",
     "delay_wgrad_compute disable_symmetric_registration fsdp_all_gather_in_start_param_sync fsdp_db_use_persist_buf_on_alloc_fail "
     "fsdp_double_buffer fsdp_manual_registration gradient_reduce_div_fusion keep_fp8_transpose_cache megatron_fsdp_cuda_graph_mode "
     "megatron_fsdp_enable_fine_grained_param_gather megatron_fsdp_grad_comm_dtype megatron_fsdp_main_grads_dtype "
     "megatron_fsdp_main_params_dtype megatron_fsdp_max_pool_double_buffer megatron_fsdp_use_decoupled_grad megatron_fsdp_version "
     "nccl_ub num_buckets pad_buckets_for_high_nccl_busbw preserve_fp32_weights reuse_grad_buf_for_mxfp8_param_ag "
     "suggested_communication_unit_size"},
    {"dist",
     "align_grad_reduce disable_jit_fuser enable_megatron_core_experimental "
     "external_gpu_device_mapping flight_recorder_dump_on_timeout flight_recorder_dump_path flight_recorder_extra_dump_on_exec "
     "flight_recorder_include_only_active flight_recorder_include_stack_trace flight_recorder_trace_buffer_size "
     "high_priority_stream_groups lazy_mpu_init local_rank nccl_communicator_config_path sharp_enabled_group use_decentralized_pg "
     "use_sharp"},
    {"logger",
     "append_to_progress_log barrier_with_L1_time comet_api_key comet_experiment_name comet_project comet_tags comet_workspace "
     "filter_warnings log_device_memory_used log_energy log_max_attention_logit log_memory_interval logging_level memory_keys "
     "mlflow_description mlflow_experiment mlflow_log_artifacts mlflow_run_name mlflow_tags mlflow_tracking_uri modules_to_filter "
     "moe_routing_trace_capture_hidden_states moe_routing_trace_capture_logits moe_routing_trace_dump_weights "
     "moe_routing_trace_max_training_iters moe_routing_trace_path set_level_for_all_loggers skip_train_metrics_log timing_log_option "
     "wandb_entity wandb_exp_name wandb_group wandb_project wandb_save_dir wandb_tags"},
    {"mixed_precision",
     "fp8_amax_compute_algo fp8_amax_history_len fp8_margin fp8_wgrad reuse_grad_buf_for_mxfp8_param_ag"},
    {"model",
     "activation_func_fp8_input_store activation_offload_fraction apply_rope_fusion async_tensor_model_parallel_allreduce "
     "attention_backend autocast_dtype barrier_with_L1_time batch_invariant_mode batch_p2p_comm batch_p2p_sync bias_activation_fusion "
     "bias_dropout_fusion clone_scatter_output_in_embedding config_logger_dir cpu_offloading cpu_offloading_activations "
     "cpu_offloading_double_buffering cpu_offloading_num_layers cpu_offloading_retain_pinned_cpu_buffers cpu_offloading_weights "
     "cross_entropy_fusion_impl cuda_graph_impl cuda_graph_modules cuda_graph_retain_backward_graph cuda_graph_scope "
     "cuda_graph_use_single_mempool cuda_graph_warmup_steps deallocate_pipeline_outputs defer_embedding_wgrad_compute "
     "delay_offload_until_cuda_graph delay_wgrad_compute delta_offload_bytes_across_pp_ranks dense_grouped_gemm deterministic_mode "
     "disable_bf16_reduced_precision_matmul disable_parameter_transpose_cache distribute_saved_activations dsa_indexer_head_dim "
     "dsa_indexer_k_norm_epsilon dsa_indexer_k_norm_fp32 dsa_indexer_loss_coeff dsa_indexer_n_heads dsa_indexer_rope_interleaved "
     "dsa_indexer_rotate_activation dsa_indexer_scoring_relu dsa_indexer_skip_topk_offset dsa_indexer_topk dsa_indexer_topk_freq "
     "dsa_indexer_use_sparse_loss dsa_kernel_backend embedding_init_method enable_autocast enable_cuda_graph "
     "ep_overlap_early_attn_memory_release experimental_attention_variant_loss_scale_func expert_gtp_weight_remat_size "
     "expert_tensor_parallel_num_weight_shards external_cuda_graph finalize_model_grads_func fine_grained_activation_offloading "
     "fine_grained_offloading_max_inflight_offloads flash_attention_version flash_decode fp4_param fp4_quantizer_factory fp4_recipe "
     "fp8_amax_compute_algo fp8_amax_history_len fp8_interval fp8_margin fp8_output_proj fp8_param fp8_quantizer_factory fp8_recipe "
     "fp8_wgrad fused_residual_rmsnorm fused_single_qkv_rope grad_sync_func gradient_accumulation_fusion gtp_remat_opt_in_modules "
     "gtp_weight_remat_size hetereogenous_dist_checkpoint hf_model_id hf_model_revision "
     "high_priority_a2a_comm_stream inference_cuda_graph_scope inference_disable_triton_nvls_kernels inference_fuse_tp_communication "
     "inference_grouped_gemm_backend inference_moe_disable_fused_quant_kernels inference_moe_token_dispatcher_type "
     "inference_rng_tracker inference_sampling_seed init_method init_model_with_meta_device kitchen_attention_backend "
     "log_max_attention_logit make_vocab_size_divisible_by mamba_head_dim mamba_num_groups mamba_state_dim "
     "mamba_training_ssm_states_dtype masked_softmax_fusion memory_efficient_layer_norm microbatch_group_size_per_vp_stage "
     "min_offloaded_tensor_size mlp_chunks_for_prefill mlp_chunks_for_training moe_deepep_num_sms moe_enable_deepep "
     "moe_enable_routing_replay moe_extended_tp moe_flex_dispatcher_backend moe_flex_dispatcher_num_sms moe_grad_scale_func "
     "moe_hybridep_num_blocks_permute moe_hybridep_num_blocks_unpermute moe_hybridep_num_sms moe_hybridep_num_sms_preprocessing "
     "moe_hybridep_pad_uneven_dispatch_inputs moe_layer_recompute moe_ncclep_zero_copy moe_pad_experts_for_cuda_graph_inference "
     "moe_paged_stash moe_paged_stash_buffer_size_factor_cpu moe_paged_stash_buffer_size_factor_cuda moe_paged_stash_page_size "
     "moe_per_layer_logging moe_permute_fusion moe_permute_fusion_into_hybridep moe_router_fusion moe_router_padding_for_fp8 "
     "moe_router_padding_for_quantization moe_shared_expert_overlap moe_single_grouped_bias moe_single_grouped_weight "
     "moe_token_dropping moe_use_legacy_grouped_gemm mtp_enabled mtp_grad_scale_func mup_attn_scale_power mup_base_head_dim "
     "mup_base_hidden_size mup_embedding_mult mup_output_mult mup_width_mult nccl_all_reduce_for_prefill no_sync_func "
     "num_layers_at_end_in_bf16 num_layers_at_start_in_bf16 num_microbatches_with_partial_activation_checkpoints offload_modules "
     "output_layer_init_method overlap_dispatch_backward_with_experts_wgrad overlap_moe_expert_parallel_comm overlap_p2p_comm "
     "overlap_p2p_comm_warmup_flush parallel_output param_sync_func perform_initialization persist_layer_norm pipeline_dtype "
     "pipeline_model_parallel_comm_backend qk_clip_alpha qk_clip_threshold scatter_embedding_sequence_parallel symmetric_ar_type "
     "tensor_parallel_num_weight_shards test_mode timers tp_comm_atomic_ag tp_comm_atomic_rs tp_comm_bootstrap_backend "
     "tp_comm_bulk_dgrad tp_comm_bulk_wgrad tp_comm_overlap tp_comm_overlap_ag tp_comm_overlap_cfg tp_comm_overlap_disable_fc1 "
     "tp_comm_overlap_disable_qkv tp_comm_overlap_rs tp_comm_overlap_rs_dgrad tp_comm_split_ag tp_comm_split_rs tp_only_amax_red "
     "transformer_impl transformer_layer_spec use_arbitrary_attention_mask use_cpu_initialization use_grouped_gemm_for_dense_mlp "
     "use_grouped_gemm_for_shared_expert use_inference_optimized_layers use_kitchen use_kitchen_attention use_mamba_mem_eff_path "
     "use_ring_exchange_p2p use_te_activation_func use_te_rng_tracker use_transformer_engine_full_layer_spec "
     "use_transformer_engine_op_fuser variable_seq_lengths wgrad_deferral_limit"},
    {"optimizer",
     "adaptive_muon_beta2 adaptive_muon_eps adaptive_muon_moment2_method barrier_with_L1_time config_logger_dir fp8_recipe lion_beta1 "
     "lion_beta2 muon_coefficient_type muon_fp32_matmul_prec muon_scalar_optimizer muon_use_syrk optimizer_cuda_graph "
     "overlap_cpu_optimizer_d2h_h2d overlap_param_gather_with_optimizer_step pin_cpu_grads pin_cpu_params "
     "reuse_grad_buf_for_mxfp8_param_ag soap_precondition_frequency soap_shampoo_beta soap_use_kl_shampoo store_param_remainders "
     "timers use_layer_wise_distributed_optimizer use_torch_optimizer_for_cpu_offload"},
    {"peft",
     "a2a_experimental sequence_parallel_input_regather"},
    {"profiling",
     "memory_snapshot_path nvtx_ranges pytorch_profiler_collect_callstack pytorch_profiler_collect_chakra "
     "pytorch_profiler_collect_shapes record_memory_history record_shapes use_nsys_profiler"},
    {"rng",
     "inference_rng_tracker te_rng_tracker"},
    {"scheduler",
     "lr_decay_steps lr_warmup_steps wd_incr_steps wsd_decay_steps"},
    {"tokenizer",
     "force_system_message hf_tokenizer_kwargs image_tag_type legacy_tokenizer merge_file metadata_path "
     "null_tokenizer_eod_id null_tokenizer_pad_id pad_vocab_size padded_vocab_size rank sp_tokenizer_kwargs tensor_model_parallel_size "
     "tiktoken_num_special_tokens tiktoken_pattern tiktoken_special_tokens tokenizer_hf_no_use_fast tokenizer_prompt_format "
     "tokenizer_sentencepiece_ignore_extra_whitespaces tokenizer_sentencepiece_legacy trust_remote_code use_gigatoken vocab_file"},
    {"train",
     "empty_unused_memory_level exit_signal exit_signal_handler_for_dataloader exit_signal_handler_for_training "
     "gpu_sniff_test_interval manual_gc manual_gc_eval manual_gc_interval skip_sync_grad_norm_across_mp train_sync_interval"},
    {"validation",
     "test_mode"},
};

// Only these values, as YAML, separated by |: another one would ask for something that changes results and is not here.
struct ForeignValue {
  std::string_view name, accepted;
};
constexpr ForeignValue kOnlyValues[] = {
    {"checkpoint.ckpt_convert_format", "null"},
    {"checkpoint.custom_manager_class", "null"},
    {"checkpoint.dist_ckpt_save_pre_mcore_014", "false"},
    {"checkpoint.non_persistent_ckpt_type", "null|global"},
    {"checkpoint.replication", "false"},
    {"checkpoint.save_activations_interval", "null"},
    {"checkpoint.save_dgrads_interval", "null"},
    {"checkpoint.save_params_interval", "null"},
    {"checkpoint.save_tokens_per_expert_interval", "null"},
    {"checkpoint.save_wgrads_interval", "null"},
    {"checkpoint.use_checkpoint_args", "false"},
    {"checkpoint.use_mp_args_from_checkpoint_args", "false"},
    {"dataset.allow_ambiguous_pad_tokens", "false"},
    {"dataset.dataset_kwargs", "null|{}"},
    {"dataset.hf_dataset", "null"},
    {"dataset.hf_test_dataset", "null"},
    {"dataset.hf_validation_dataset", "null"},
    {"dataset.hybrid_context_parallel", "false"},
    {"dataset.inter_document_masking", "false"},
    {"dataset.max_train_samples", "null"},
    {"dataset.mock", "true|false|null"},
    {"dataset.multiple_validation_sets", "null|false"},
    {"dataset.offline_packing_specs", "null"},
    {"dataset.per_dataset_sequences_path", "null"},
    {"dataset.preprocessing", "null"},
    {"dataset.sequences_per_dataset", "null"},
    {"dataset.sft_mock_dataset_config_json", "null"},
    {"dataset.varlen_mock_dataset_config_json", "null"},
    {"dataset.varlen_sbhd_validation", "false"},
    {"ddp.fp4_param_gather", "false"},
    {"ddp.fp8_param_gather", "false"},
    {"ddp.param_name_patterns_for_fp32_local_accumulation", "[]"},
    {"ddp.reduce_scatter_with_fp32_accumulation", "false"},
    {"ddp.use_custom_fsdp", "false"},
    {"dist.eval_context_parallel_size", "null"},
    {"mixed_precision.fp8_dot_product_attention", "false"},
    {"mixed_precision.fp8_multi_head_attention", "false"},
    {"model.activation_func_clamp_value", "null"},
    {"model.add_decoder", "true"},
    {"model.add_encoder", "true"},
    {"model.apply_residual_connection_post_layernorm", "false"},
    {"model.apply_rotary_pos_emb_in_fp32", "false|true"},
    {"model.embedding_init_method_std", "null|0.02"},
    {"model.first_last_layers_bf16", "false"},
    {"model.fp16_lm_cross_entropy", "false"},
    {"model.fp32_residual_connection", "false"},
    {"model.fp4", "null"},
    {"model.fp8", "null"},
    {"model.fp8_dot_product_attention", "false"},
    {"model.fp8_multi_head_attention", "false"},
    {"model.freeze_language_model", "false"},
    {"model.freeze_vision_model", "false"},
    {"model.freeze_vision_projection", "false"},
    {"model.gdp_num_householder", "3"},
    {"model.glu_linear_offset", "0.0"},
    {"model.grad_scale_func", "null"},
    {"model.heterogeneous_block_specs", "false"},
    {"model.hybrid_context_parallel", "false"},
    {"model.is_hybrid_model", "false"},
    {"model.is_vision_language", "false"},
    {"model.kv_lora_rank", "null"},
    {"model.logit_dtype", "null"},
    {"model.mamba_num_heads", "null"},
    {"model.max_seqlen_per_dp_cp_rank", "null"},
    {"model.moe_apply_probs_on_input", "false"},
    {"model.moe_expert_rank_capacity_factor", "null"},
    {"model.moe_input_jitter_eps", "null"},
    {"model.moe_latent_size", "null"},
    {"model.moe_mlp_glu_interleave_size", "null"},
    {"model.moe_router_force_biased", "null"},
    {"model.moe_router_quantile_balancing_ema", "0.0"},
    {"model.moe_router_topk_limited_devices", "null"},
    {"model.moe_shared_expert_glu_interleave_size", "null"},
    {"model.mrope_section", "null"},
    {"model.mtp_detach_heads", "false"},
    {"model.mtp_hybrid_override_pattern", "null"},
    {"model.mtp_standalone", "false"},
    {"model.mtp_use_repeated_layer", "false"},
    {"model.multi_latent_attention", "false"},
    {"model.no_rope_freq", "null"},
    {"model.q_lora_rank", "null"},
    {"model.qk_clip", "false"},
    {"model.qk_l2_norm", "false"},
    {"model.quant_recipe", "null"},
    {"model.restore_modelopt_state", "false"},
    {"model.rotary_interleaved", "false"},
    {"model.rotary_scaling_factor", "null|1.0"},
    {"model.seq_len_interpolation_factor", "null"},
    {"model.should_pad_vocab", "false|true"},
    {"model.softmax_scale", "null"},
    {"model.softmax_type", "vanilla"},
    {"model.use_fused_weighted_squared_relu", "false"},
    {"model.use_mup", "false"},
    {"model.window_attn_skip_freq", "null"},
    {"optimizer.grad_norm_skip_threshold", ".inf|inf"},
    {"peft.experts_shared_outer_loras", "false"},
    {"peft.normalize_moe_lora", "false"},
    {"peft.share_expert_adapters", "true"},
    {"scheduler.max_steps", "null"},
    {"tokenizer.chat_template_path", "null"},
    {"tokenizer.special_tokens", "null"},
    {"tokenizer.tokenizer_hf_no_include_special_tokens", "false"},
    {"tokenizer.vocab_extra_ids", "0"},
    {"train.step_batch_size_schedule", "null"},
    {"validation.multiple_validation_sets", "null|false"},
    {"validation.validation_set_names", "null"},
};

// What a user may expect to have done something.
constexpr std::pair<std::string_view, std::string_view> kReasons[] = {
    {"logger.wandb_exp_name", "runs are followed through logger.jsonl and logger.tensorboard_dir"},
    {"logger.wandb_project", "runs are followed through logger.jsonl and logger.tensorboard_dir"},
    {"model.freeze_language_model", "every weight of a language model is trained"},
    {"model.freeze_vision_model", "models here have no vision tower"},
    {"model.freeze_vision_projection", "models here have no vision tower"},
    {"model.gradient_accumulation_fusion", "gradients are always added up in place, in fp32"},
    {"model.init_model_with_meta_device", "parameters never get more memory than this rank keeps of them"},
    {"model.pipeline_dtype", "activations travel between stages in the type they have"},
};

constexpr std::string_view kSections[] = {"ft",
                                          "straggler",
                                          "nvrx_straggler",
                                          "inprocess_restart",
                                          "rerun_state_machine",
                                          "tensor_inspect",
                                          "env_vars",
                                          "optimizer_config_override_provider"};

bool contains(std::string_view words, std::string_view word, char separator) {
  for (size_t begin = 0; begin <= words.size();) {
    const size_t end = std::min(words.find(separator, begin), words.size());
    if (words.substr(begin, end - begin) == word) return true;
    begin = end + 1;
  }
  return false;
}

}  // namespace

const std::vector<std::pair<std::string_view, std::string_view>>& key_aliases() {
  static const std::vector<std::pair<std::string_view, std::string_view>> aliases = {
      {"checkpoint.also_save_hf_checkpoint", "checkpoint.save_hf"},
      {"train.eval_iters", "validation.eval_iters"},
      {"train.eval_interval", "validation.eval_interval"},
      {"train.skip_train", "validation.skip_train"},
      {"rerun_state_machine.check_for_nan_in_loss", "train.check_for_nan_in_loss"},
      {"dataset.sequence_length", "dataset.seq_length"},
      {"dataset.seed", "dataset.random_seed"},
      {"dataset.full_validation", "validation.full_validation"},
      {"model.micro_batch_size", "train.micro_batch_size"},
      {"model.global_batch_size", "train.global_batch_size"},
      {"model.activations_checkpoint_granularity", "model.recompute_granularity"},
      {"model.activations_checkpoint_method", "model.recompute_method"},
      {"model.activations_checkpoint_num_layers", "model.recompute_num_layers"},
      {"model.yarn_rotary_scaling_factor", "model.rope_scaling_factor"},
      {"model.yarn_original_max_position_embeddings", "model.original_max_position_embeddings"},
      {"model.yarn_correction_range_round_to_int", "model.yarn_truncate"},
      {"optimizer.muon_use_nesterov", "optimizer.muon_nesterov"},
      {"mixed_precision.fp8_param", "mixed_precision.fp8_param_gather"},
      {"mixed_precision.fp4_param", "mixed_precision.fp4_param_gather"},
  };
  return aliases;
}

ForeignAnswer foreign_key(std::string_view section, std::string_view key, const YamlValue& value) {
  const std::string name = std::string(section) + "." + std::string(key);
  const auto* found = std::ranges::find(kReasons, name, &std::pair<std::string_view, std::string_view>::first);
  const std::string_view reason = found == std::end(kReasons) ? "" : found->second;
  if (foreign_section(section)) return {Foreign::without_effect, "", reason};
  for (const ForeignNames& names : kAnyValue)
    if (names.section == section && contains(names.keys, key, ' ')) return {Foreign::without_effect, "", reason};
  for (const ForeignValue& entry : kOnlyValues) {
    if (entry.name != name) continue;
    if (contains(entry.accepted, describe(value), '|')) return {Foreign::without_effect, "", reason};
    return {Foreign::wrong_value, join(split(entry.accepted, '|'), " or "), reason};
  }
  return {};
}

std::span<const std::pair<std::string_view, std::string_view>> foreign_reasons() { return kReasons; }

bool foreign_section(std::string_view section) { return std::find(std::begin(kSections), std::end(kSections), section) != std::end(kSections); }

const std::vector<std::string>& foreign_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> out;
    for (const ForeignNames& group : kAnyValue)
      for (const std::string& key : split(group.keys, ' ')) out.push_back(std::string(group.section) + "." + key);
    for (const ForeignValue& entry : kOnlyValues) out.emplace_back(entry.name);
    std::sort(out.begin(), out.end());
    return out;
  }();
  return names;
}

}  // namespace ponte
