// What a configuration may ask for that this version cannot do in training: one row each, taken out when the part exists.
#include "config/config.h"

#include <algorithm>

#include "base/format.h"

namespace ponte {
namespace {

struct Part {
  std::string_view what;
  bool (*asked)(const Config&, int64_t world_size);
  std::string_view because;  // the key that asks for it
};

bool has_narrow_optimizer_state(const Config& c, int64_t) {
  const OptimizerConfig& o = c.optimizer;
  const bool wide = o.main_grads_dtype == DType::f32 && o.main_params_dtype == DType::f32 && o.exp_avg_dtype == DType::f32 &&
                    o.exp_avg_sq_dtype == DType::f32;
  return o.use_precision_aware_optimizer && !wide;
}

constexpr Part kParts[] = {
    {"sinkhorn balancing of experts", [](const Config& c, int64_t) { return c.model.moe_router_load_balancing_type == "sinkhorn"; },
     "model.moe_router_load_balancing_type"},
    {"recompute of shared experts alone",
     [](const Config& c, int64_t) { return std::ranges::count(c.model.recompute_modules, std::string_view("shared_experts")) > 0; }, "model.recompute_modules"},
    {"norms over all heads (OLMoE) spread over ranks",
     [](const Config& c, int64_t) { return c.model.model_type == "olmoe" && c.model.tensor_model_parallel_size > 1; }, "model.tensor_model_parallel_size"},
    {"torch's own FSDP (ddp.use_megatron_fsdp shards as much)", [](const Config& c, int64_t) { return c.dist.use_torch_fsdp2; }, "dist.use_torch_fsdp2"},
    {"the loss scale of fp16 in fsdp_dtensor checkpoints", [](const Config& c, int64_t) { return c.checkpoint.ckpt_format == "fsdp_dtensor" && c.model.fp16; },
     "checkpoint.ckpt_format"},
    {"adapters (LoRA, DoRA)", [](const Config& c, int64_t) { return !c.peft.scheme.empty(); }, "peft.scheme"},
    {"fine-tuning data (dataset.kind=sft)", [](const Config& c, int64_t) { return c.dataset.kind == "sft"; }, "dataset.kind"},
    {"epochs", [](const Config& c, int64_t) { return c.train.num_epochs > 0; }, "train.num_epochs"},
    {"optimizers other than adam", [](const Config& c, int64_t) { return c.optimizer.optimizer != "adam"; }, "optimizer.optimizer"},
    {"coupled weight decay", [](const Config& c, int64_t) { return !c.optimizer.decoupled_weight_decay; }, "optimizer.decoupled_weight_decay"},
    {"separate learning rate of the embedding", [](const Config& c, int64_t) { return c.optimizer.decoupled_lr.has_value(); },
     "optimizer.decoupled_lr"},
    {"optimizer state in host memory", [](const Config& c, int64_t) { return c.optimizer.optimizer_cpu_offload; },
     "optimizer.optimizer_cpu_offload"},
    {"optimizer state in other dtypes than fp32", has_narrow_optimizer_state, "optimizer.use_precision_aware_optimizer and its dtypes"},
    {"another rule for which weights have no decay", [](const Config& c, int64_t) { return !c.scheduler.no_weight_decay_cond_type.empty(); },
     "scheduler.no_weight_decay_cond_type"},
    {"attention scores scaled by 1/layer", [](const Config& c, int64_t) { return c.model.apply_query_key_layer_scaling; },
     "model.apply_query_key_layer_scaling"},
    {"autocast", [](const Config& c, int64_t) { return c.mixed_precision.autocast_enabled; }, "mixed_precision.autocast_enabled"},
    {"other orders of a corpus than one pass after the other",
     [](const Config& c, int64_t) { return c.dataset.kind == "gpt" && !c.dataset.dataloader_type.empty() && c.dataset.dataloader_type != "single"; },
     "dataset.dataloader_type"},
    {"evaluation over the whole validation set", [](const Config& c, int64_t) { return c.validation.full_validation; },
     "validation.full_validation"},
    {"master weights from a checkpoint's parameters", [](const Config& c, int64_t) { return c.checkpoint.load_main_params_from_ckpt; },
     "checkpoint.load_main_params_from_ckpt"},
    {"8-bit and 4-bit matrix multiplication",
     [](const Config& c, int64_t) { return !c.mixed_precision.fp8.empty() || !c.mixed_precision.fp4.empty(); }, "mixed_precision"},
    {"dropout", [](const Config& c, int64_t) { return c.model.hidden_dropout > 0 || c.model.attention_dropout > 0; },
     "model.hidden_dropout, model.attention_dropout"},
    {"non-persistent checkpoints", [](const Config& c, int64_t) { return c.checkpoint.non_persistent_save_interval > 0; },
     "checkpoint.non_persistent_save_interval"},
    {"traces of steps", [](const Config& c, int64_t) { return c.profiling.use_pytorch_profiler; }, "profiling.use_pytorch_profiler"},
};

// Keys that steer speed or display only, and steer nothing in this version.
constexpr std::string_view kIdle[] = {
    "model.attention_softmax_in_fp32", "model.cross_entropy_loss_fusion", "model.moe_grouped_gemm", "model.moe_pad_expert_input_to_capacity",
    "train.check_weight_hash_across_dp_replicas_interval", "train.check_optimizer_step_success",
    "ddp.align_param_gather", "ddp.average_in_collective", "ddp.check_for_large_grads", "dist.distributed_backend",
    "dist.use_gloo_process_groups", "dataset.mmap_bin_files",
    "dataset.data_sharding", "tokenizer.make_vocab_size_divisible_by", "checkpoint.fully_parallel_save",
    "checkpoint.fully_parallel_load", "checkpoint.dist_ckpt_strictness", "logger.tensorboard_queue_size",
    "logger.log_progress", "logger.log_timers_to_tensorboard", "logger.log_memory_to_tensorboard",
    "logger.log_l2_norm_grad_to_tensorboard", "logger.timing_log_level",
    "comm_overlap.tp_comm_overlap", "comm_overlap.overlap_p2p_comm", "comm_overlap.batch_p2p_comm",
    "comm_overlap.overlap_grad_reduce", "comm_overlap.overlap_param_gather", "comm_overlap.overlap_moe_expert_parallel_comm",
    "rng.data_parallel_random_init",
};

}  // namespace

std::span<const std::string_view> idle_keys() { return kIdle; }

std::vector<std::string> unsupported_parts(const Config& config, int64_t world_size) {
  std::vector<std::string> out;
  for (const Part& part : kParts)
    if (part.asked(config, world_size)) out.push_back(format("{} ({})", part.what, part.because));
  return out;
}

}  // namespace ponte
