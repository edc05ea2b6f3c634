// What follows from other keys, as Bridge's ConfigContainer.validate derives it.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "base/errors.h"
#include "config/config.h"

namespace ponte {
namespace {

// Bridge copies every field of the precision that model, optimizer or ddp has too (update_config_with_precision_overrides).
void apply_precision(Config& c) {
  const MixedPrecisionConfig& p = c.mixed_precision;
  if (p.name.empty()) {
    c.optimizer.fp16 = c.model.fp16;
    c.optimizer.bf16 = c.model.bf16;
    c.optimizer.params_dtype = c.model.params_dtype;
    return;
  }
  c.model.fp16 = c.optimizer.fp16 = p.fp16;
  c.model.bf16 = c.optimizer.bf16 = p.bf16;
  if (p.params_dtype) c.model.params_dtype = c.optimizer.params_dtype = *p.params_dtype;
  c.ddp.grad_reduce_in_fp32 = p.grad_reduce_in_fp32;
  c.optimizer.loss_scale = p.loss_scale;
  c.optimizer.initial_loss_scale = p.initial_loss_scale;
  c.optimizer.min_loss_scale = p.min_loss_scale;
  c.optimizer.loss_scale_window = p.loss_scale_window;
  c.optimizer.hysteresis = p.hysteresis;
}

void derive_lengths(Config& c, int64_t world_size) {
  if (c.dataset.seq_length == 0) c.dataset.seq_length = c.model.seq_length;
  if (c.dataset.random_seed == 0) c.dataset.random_seed = c.rng.seed;
  if (c.train.accumulate_grad_batches > 0)
    c.train.global_batch_size = c.train.accumulate_grad_batches * c.train.micro_batch_size * data_parallel_size(c.model, world_size);
  if (c.train.global_batch_size == 0 && c.train.micro_batch_size > 0)
    c.train.global_batch_size = c.train.micro_batch_size * data_parallel_size(c.model, world_size);
  if (c.train.train_iters == 0 && c.train.train_samples > 0 && c.train.global_batch_size > 0)
    c.train.train_iters = c.train.train_samples / c.train.global_batch_size;
  if (c.validation.eval_global_batch_size == 0) c.validation.eval_global_batch_size = c.train.global_batch_size;
  if (c.validation.eval_micro_batch_size == 0) c.validation.eval_micro_batch_size = c.train.micro_batch_size;
}

// As Megatron's --num-layers-per-virtual-pipeline-stage. What it contradicts stays, for validate() to say so.
void derive_chunks(ModelConfig& m) {
  if (m.num_layers_per_virtual_pipeline_stage <= 0 || m.pipeline_model_parallel_size <= 0 || m.virtual_pipeline_model_parallel_size > 0) return;
  const int64_t chunks = layers_of_pipeline(m) / m.pipeline_model_parallel_size / m.num_layers_per_virtual_pipeline_stage;
  m.virtual_pipeline_model_parallel_size = chunks > 1 ? chunks : 0;
}

void derive_schedule(Config& c) {
  SchedulerConfig& s = c.scheduler;
  const bool by_samples = c.train.train_samples > 0;
  int64_t& decay = by_samples ? s.lr_decay_samples : s.lr_decay_iters;
  int64_t& warmup = by_samples ? s.lr_warmup_samples : s.lr_warmup_iters;
  int64_t& wsd = by_samples ? s.lr_wsd_decay_samples : s.lr_wsd_decay_iters;
  if (decay == 0) decay = by_samples ? c.train.train_samples : c.train.train_iters;
  if (wsd == 0 && s.lr_decay_style == "WSD") wsd = decay;
  // A short run of a recipe made for a long one: the warm-up ends with the decay at the latest.
  if (decay > 0) warmup = std::min(warmup, decay);
  if (!s.start_weight_decay) s.start_weight_decay = c.optimizer.weight_decay;
  if (!s.end_weight_decay) s.end_weight_decay = c.optimizer.weight_decay;
}

// The same thing said in two sections: either place switches it on, as in Bridge.
void agree(bool& a, bool& b) { a = b = a || b; }

// Plans and parameter counts, which nothing validates first, go through these lists by layer.
void require_lists_cover_layers(const ModelConfig& m) {
  const auto check = [&](const char* key, size_t listed) {
    require(m.num_layers == 0 || listed == 0 || std::cmp_equal(listed, m.num_layers), "{} lists {} layers of {}", key, listed, m.num_layers);
  };
  check("model.layer_types", m.layer_types.size());
  check("model.moe_layer_freq", m.moe_layer_freq.size());
}

}  // namespace

void finalize(Config& config, int64_t world_size) {
  require_lists_cover_layers(config.model);
  apply_precision(config);
  agree(config.ddp.use_distributed_optimizer, config.optimizer.use_distributed_optimizer);
  agree(config.ddp.overlap_param_gather, config.optimizer.overlap_param_gather);
  agree(config.ddp.use_megatron_fsdp, config.dist.use_megatron_fsdp);
  agree(config.logger.log_num_zeros_in_grad, config.optimizer.log_num_zeros_in_grad);
  derive_chunks(config.model);
  derive_lengths(config, world_size);
  derive_schedule(config);
}

std::string sharding_strategy(const Config& config) {
  if (config.ddp.use_megatron_fsdp) return config.ddp.data_parallel_sharding_strategy;
  return config.ddp.use_distributed_optimizer || config.optimizer.use_distributed_optimizer ? "optim" : "no_shard";
}

SchedulerSteps scheduler_steps(const Config& config) {
  const SchedulerConfig& s = config.scheduler;
  const int64_t batch = config.train.global_batch_size;
  const bool by_samples = config.train.train_samples > 0;
  SchedulerSteps out;
  out.decay = by_samples ? s.lr_decay_samples : s.lr_decay_iters * batch;
  out.wsd_decay = by_samples ? s.lr_wsd_decay_samples : s.lr_wsd_decay_iters * batch;
  out.weight_decay = by_samples ? config.train.train_samples : config.train.train_iters * batch;
  out.warmup = s.lr_warmup_fraction ? *s.lr_warmup_fraction * static_cast<double>(out.decay)
                                    : static_cast<double>(by_samples ? s.lr_warmup_samples : s.lr_warmup_iters * batch);
  // Megatron wants the warm-up to be shorter than the decay.
  out.warmup = std::min(out.warmup, static_cast<double>(std::max<int64_t>(out.decay - 1, 0)));
  return out;
}

int64_t layers_of_pipeline(const ModelConfig& m) {
  return m.num_layers + m.account_for_embedding_in_pipeline_split + m.account_for_loss_in_pipeline_split;
}

int64_t data_parallel_size(const ModelConfig& m, int64_t world_size) {
  const int64_t tensor = m.tensor_model_parallel_size, pipeline = m.pipeline_model_parallel_size, context = m.context_parallel_size;
  require(tensor > 0 && pipeline > 0 && context > 0, "parallel sizes must be positive: tensor {}, pipeline {}, context {}", tensor, pipeline,
          context);
  const int64_t model_ranks = tensor * pipeline * context;
  require(world_size >= model_ranks && world_size % model_ranks == 0,
          "{} ranks do not divide into replicas of tensor {} x pipeline {} x context {} = {} ranks", world_size, tensor, pipeline, context,
          model_ranks);
  return world_size / model_ranks;
}

int64_t fewest_ranks(const ModelConfig& m) {
  const int64_t of_layers = m.tensor_model_parallel_size * m.pipeline_model_parallel_size * m.context_parallel_size;
  const int64_t expert_tensor = m.expert_tensor_parallel_size ? m.expert_tensor_parallel_size : m.tensor_model_parallel_size;
  const int64_t of_experts = m.num_moe_experts > 0 ? expert_tensor * m.expert_model_parallel_size * m.pipeline_model_parallel_size : 1;
  return std::lcm(std::max<int64_t>(of_layers, 1), std::max<int64_t>(of_experts, 1));
}

int64_t num_microbatches(const Config& config, int64_t world_size) {
  const int64_t per_round = config.train.micro_batch_size * data_parallel_size(config.model, world_size);
  require(per_round > 0 && config.train.global_batch_size % per_round == 0,
          "train.global_batch_size {} is not a multiple of micro_batch_size {} x {} replicas", config.train.global_batch_size,
          config.train.micro_batch_size, data_parallel_size(config.model, world_size));
  return config.train.global_batch_size / per_round;
}

}  // namespace ponte
