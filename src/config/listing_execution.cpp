// Rows of the sections that say how ranks cooperate and in which precision: ddp, dist, mixed_precision, comm_overlap, rng, profiling.
#include "config/field_types.h"

namespace ponte {
namespace {

void list_ddp(Listing<DdpConfig> row) {
  using D = DdpConfig;
  row("use_distributed_optimizer", &D::use_distributed_optimizer, "shard optimizer state over the replicas (ZeRO-1)");
  row("grad_reduce_in_fp32", &D::grad_reduce_in_fp32, "accumulate and reduce gradients in fp32; set by mixed_precision unless that is null");
  row("overlap_grad_reduce", &D::overlap_grad_reduce, "reduce gradients during the backward pass");
  row("overlap_param_gather", &D::overlap_param_gather, "gather updated parameters during the next forward pass");
  row("align_param_gather", &D::align_param_gather, "all pipeline stages gather at the same time");
  row("average_in_collective", &D::average_in_collective, "divide inside the collective");
  row("check_for_nan_in_grad", &D::check_for_nan_in_grad, "look for non-finite gradients before the reduction");
  row("check_for_large_grads", &D::check_for_large_grads, "look for unusually large gradients before the reduction");
  row("bucket_size", &D::bucket_size, none_is_null, "parameters per reduction; null: chosen from the number of replicas");
  row("num_distributed_optimizer_instances", &D::num_distributed_optimizer_instances,
      "groups of neighbouring replicas that each hold a whole of what is divided (HSDP)");
  row("use_megatron_fsdp", &D::use_megatron_fsdp, "fully sharded data parallelism: data_parallel_sharding_strategy says what replicas divide");
  row("data_parallel_sharding_strategy", &D::data_parallel_sharding_strategy, {"no_shard", "optim", "optim_grads", "optim_grads_params"},
      "what replicas divide under use_megatron_fsdp: nothing, optimizer state, gradients too, parameters too");
  row("outer_dp_sharding_strategy", &D::outer_dp_sharding_strategy, {"no_shard", "optim"},
      "what groups of replicas that hold the same shares divide: nothing, or the optimizer state (with optim_grads_params)");
}

void list_dist(Listing<DistConfig> row) {
  using D = DistConfig;
  row("distributed_backend", &D::distributed_backend, {"nccl", "gloo"}, "collectives between GPUs; gloo wherever there is none");
  row("distributed_timeout_minutes", &D::distributed_timeout_minutes, "how long ranks wait for each other: to meet, and in a collective");
  row("distributed_timeout_seconds_after_init", &D::distributed_timeout_seconds_after_init, none_is_null,
      "how long a collective may take; null: distributed_timeout_minutes");
  row("use_megatron_fsdp", &D::use_megatron_fsdp, "as ddp.use_megatron_fsdp");
  row("use_torch_fsdp2", &D::use_torch_fsdp2, "torch's own FSDP");
  row("use_tp_pp_dp_mapping", &D::use_tp_pp_dp_mapping,
      "order of the axes over ranks: tensor, pipeline, data instead of tensor, context, expert, data, pipeline");
  row("use_gloo_process_groups", &D::use_gloo_process_groups, "gloo groups beside nccl's, for checkpoints");
}

void list_precision(Listing<MixedPrecisionConfig> row) {
  using P = MixedPrecisionConfig;
  row("name", &P::name, none_is_null, "preset the other keys come from (mixed_precision=bf16_mixed), custom, or null: the model's own dtypes stand");
  row("fp32", &P::fp32, "everything in fp32");
  row("fp16", &P::fp16, "fp16 with loss scaling");
  row("bf16", &P::bf16, "bf16 parameters, fp32 master weights");
  row("params_dtype", &P::params_dtype, "dtype of the parameters");
  row("pipeline_dtype", &P::pipeline_dtype, "dtype of activations between stages");
  row("autocast_dtype", &P::autocast_dtype, "dtype of autocast regions");
  row("autocast_enabled", &P::autocast_enabled, "autocast");
  row("grad_reduce_in_fp32", &P::grad_reduce_in_fp32, "accumulate and reduce gradients in fp32");
  row("loss_scale", &P::loss_scale, "fp16: constant loss scale; null: dynamic");
  row("initial_loss_scale", &P::initial_loss_scale, "fp16: first dynamic loss scale");
  row("min_loss_scale", &P::min_loss_scale, "fp16: lowest dynamic loss scale");
  row("loss_scale_window", &P::loss_scale_window, "fp16: good steps before the scale doubles");
  row("hysteresis", &P::hysteresis, "fp16: overflows before the scale halves");
  row("fp8", &P::fp8, none_is_null, {"e4m3", "hybrid"}, "8-bit matrix multiplication");
  row("fp8_recipe", &P::fp8_recipe, {"tensorwise", "delayed", "mxfp8", "blockwise"}, "8-bit scaling");
  row("fp8_param_gather", &P::fp8_param_gather, "gather 8-bit parameters");
  row("fp4", &P::fp4, none_is_null, {"e2m1"}, "4-bit matrix multiplication");
  row("fp4_recipe", &P::fp4_recipe, {"nvfp4"}, "4-bit scaling");
  row("fp4_param_gather", &P::fp4_param_gather, "gather 4-bit parameters");
  row("first_last_layers_bf16", &P::first_last_layers_bf16, "first and last layers stay in bf16");
  row("num_layers_at_start_in_bf16", &P::num_layers_at_start_in_bf16, "how many first layers");
  row("num_layers_at_end_in_bf16", &P::num_layers_at_end_in_bf16, "how many last layers");
}

void list_comm_overlap(Listing<CommOverlapConfig> row) {
  using C = CommOverlapConfig;
  row("tp_comm_overlap", &C::tp_comm_overlap, "overlap tensor-parallel communication with computation");
  row("overlap_p2p_comm", &C::overlap_p2p_comm, "overlap the exchange between pipeline stages");
  row("batch_p2p_comm", &C::batch_p2p_comm, "send and receive of stages in one operation");
  row("overlap_grad_reduce", &C::overlap_grad_reduce, "as ddp.overlap_grad_reduce");
  row("overlap_param_gather", &C::overlap_param_gather, "as ddp.overlap_param_gather");
  row("overlap_moe_expert_parallel_comm", &C::overlap_moe_expert_parallel_comm, "overlap the exchange of tokens between experts");
}

}  // namespace

void list_execution(std::vector<Field>& rows) {
  list_ddp({rows, "ddp", &Config::ddp});
  list_dist({rows, "dist", &Config::dist});
  list_precision({rows, "mixed_precision", &Config::mixed_precision});
  list_comm_overlap({rows, "comm_overlap", &Config::comm_overlap});
  Listing<RngConfig> rng(rows, "rng", &Config::rng);
  rng("seed", &RngConfig::seed, "seed of initial weights, dropout and, unless dataset.random_seed is given, sample order");
  rng("data_parallel_random_init", &RngConfig::data_parallel_random_init, "different initial weights on every replica");
  Listing<ProfilingConfig> profiling(rows, "profiling", &Config::profiling);
  profiling("use_pytorch_profiler", &ProfilingConfig::use_pytorch_profiler, "write a trace of some steps");
  profiling("profile_step_start", &ProfilingConfig::profile_step_start, "first traced step");
  profiling("profile_step_end", &ProfilingConfig::profile_step_end, "first step not traced any more");
  profiling("profile_ranks", &ProfilingConfig::profile_ranks, "ranks that trace");
  profiling("output_dir", &ProfilingConfig::output_dir, none_is_null, "where the trace goes; null: logger.tensorboard_dir");
}

}  // namespace ponte
