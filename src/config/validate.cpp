// Every check between keys, in one list, and therefore long. A check returns what is wrong with its numbers, or "".
#include <algorithm>
#include <array>
#include <tuple>

#include "base/errors.h"
#include "config/batch_sizes.h"
#include "config/config.h"
#include "config/limits.h"

namespace ponte {
namespace {

struct Case {
  const Config& config;
  int64_t world_size;
};

int64_t expert_tensor_size(const ModelConfig& m) {
  return m.expert_tensor_parallel_size ? m.expert_tensor_parallel_size : m.tensor_model_parallel_size;
}

// `whole` must be a multiple of `part`.
std::string divides(std::string_view what, int64_t whole, std::string_view by, int64_t part) {
  if (part > 0 && whole % part == 0) return "";
  return format("{} {} is not a multiple of {} {}", what, whole, by, part);
}

std::string at_least(std::string_view what, int64_t value, int64_t lowest) {
  return value >= lowest ? "" : format("{} is {}, it must be at least {}", what, value, lowest);
}

std::string in_unit_interval(std::string_view what, double value) {
  return value >= 0 && value < 1 ? "" : format("{} is {}, it must be in [0, 1)", what, value);
}

// --- model ---

std::string model_is_known(const Case& c) {
  return c.config.model.num_layers > 0 ? "" : "the model has no layers: give --recipe, --hf-model, or the sizes under model";
}
std::string sizes_are_positive(const Case& c) {
  const ModelConfig& m = c.config.model;
  if (m.num_layers == 0) return "";
  const std::pair<std::string_view, int64_t> sizes[] = {{"model.hidden_size", m.hidden_size},
                                                        {"model.ffn_hidden_size", m.ffn_hidden_size},
                                                        {"model.num_attention_heads", m.num_attention_heads},
                                                        {"model.num_query_groups", m.num_query_groups},
                                                        {"model.kv_channels", m.kv_channels},
                                                        {"model.vocab_size", m.vocab_size},
                                                        {"model.seq_length", m.seq_length}};
  for (const auto& [name, size] : sizes)
    if (std::string wrong = at_least(name, size, 1); !wrong.empty()) return wrong;
  return "";
}
std::string heads_divide_into_groups(const Case& c) {
  const ModelConfig& m = c.config.model;
  return m.num_layers == 0 ? "" : divides("model.num_attention_heads", m.num_attention_heads, "model.num_query_groups", m.num_query_groups);
}
std::string head_dimension_is_even(const Case& c) {
  const int64_t size = c.config.model.kv_channels;
  return size % 2 == 0 ? "" : format("model.kv_channels is {}; rotary embeddings turn pairs, so it must be even", size);
}
std::string rotary_scaling_is_whole(const Case& c) {
  const ModelConfig& m = c.config.model;
  if (m.position_embedding_type == "none") return "";
  if (!(m.rotary_base > 0)) return format("model.rotary_base is {}, it must be positive", m.rotary_base);
  if (!(m.rotary_percent > 0 && m.rotary_percent <= 1)) return format("model.rotary_percent is {}, it must be in (0, 1]", m.rotary_percent);
  if (m.rope_scaling_type == "none") return "";
  if (!(m.rope_scaling_factor > 0)) return format("model.rope_scaling_factor is {}, it must be positive", m.rope_scaling_factor);
  if (m.rope_scaling_type == "linear" || m.original_max_position_embeddings > 0) return "";
  return format("model.rope_scaling_type={} wants model.original_max_position_embeddings, the positions before stretching, not {}", m.rope_scaling_type,
                m.original_max_position_embeddings);
}
std::string dropout_is_a_share(const Case& c) {
  std::string wrong = in_unit_interval("model.hidden_dropout", c.config.model.hidden_dropout);
  return wrong.empty() ? in_unit_interval("model.attention_dropout", c.config.model.attention_dropout) : wrong;
}
std::string layer_types_are_known(const Case& c) {
  for (const std::string& type : c.config.model.layer_types)
    if (type != "full_attention" && type != "sliding_attention" && type != "linear_attention")
      return format("model.layer_types holds '{}', wanted full_attention, sliding_attention or linear_attention", type);
  return "";
}
std::string experts_fit(const Case& c) {
  const ModelConfig& m = c.config.model;
  if (m.num_moe_experts == 0) return "";
  if (std::string wrong = wrong_routing(m); !wrong.empty()) return wrong;
  return wrong_over_expert_ranks(m, m.expert_model_parallel_size);
}
std::string positions_cover_sequences(const Case& c) {
  const ModelConfig& m = c.config.model;
  const int64_t longest = longest_sequence(m);
  if (m.seq_length <= longest) return "";
  return format("model.seq_length {} is longer than the {} positions of the model (model.max_position_embeddings {}, rope scaling {}); raise "
                "model.max_position_embeddings to train it on longer sequences",
                m.seq_length, longest, m.max_position_embeddings, m.rope_scaling_type);
}
std::string one_precision(const Case& c) { return c.config.model.fp16 && c.config.model.bf16 ? "model.fp16 and model.bf16 are both true" : ""; }
std::string precision_matches_dtype(const Case& c) {
  const ModelConfig& m = c.config.model;
  const DType wanted = m.bf16 ? DType::bf16 : m.fp16 ? DType::f16 : DType::f32;
  return m.params_dtype == wanted ? ""
                                  : format("model.params_dtype is {}, with bf16={} and fp16={} it must be {}", torch_name(m.params_dtype), m.bf16,
                                           m.fp16, torch_name(wanted));
}
std::string recompute_is_whole(const Case& c) {
  const ModelConfig& m = c.config.model;
  if (m.recompute_granularity == "full" && m.recompute_method.empty())
    return "model.recompute_granularity=full wants model.recompute_method (uniform or block)";
  if (m.recompute_granularity != "full" && !m.recompute_method.empty())
    return format("model.recompute_method={} wants model.recompute_granularity=full", m.recompute_method);
  if (m.recompute_granularity == "full" && (m.recompute_num_layers < 1 || m.recompute_num_layers > m.num_layers))
    return format("model.recompute_num_layers is {}, of {} layers", m.recompute_num_layers, m.num_layers);
  return "";
}
std::string padding_has_a_capacity(const Case& c) {
  const ModelConfig& m = c.config.model;
  if (!m.moe_pad_expert_input_to_capacity || m.moe_expert_capacity_factor.value_or(-1) > 0) return "";
  return "model.moe_pad_expert_input_to_capacity wants model.moe_expert_capacity_factor, the capacity to pad to";
}
std::string recompute_modules_are_known(const Case& c) {
  static constexpr std::array<std::string_view, 8> known = {"core_attn",      "mlp",         "layernorm", "moe", "moe_act",
                                                            "shared_experts", "mla_up_proj", "gdn"};
  for (const std::string& module : c.config.model.recompute_modules)
    if (std::find(known.begin(), known.end(), module) == known.end()) return format("model.recompute_modules: there is no module {}", module);
  return "";
}

// --- parallel layout ---

std::string tensor_ranks_share_layers(const Case& c) { return wrong_over_tensor_ranks(c.config.model, c.config.model.tensor_model_parallel_size); }
std::string tensor_ranks_share_experts(const Case& c) { return wrong_over_expert_tensor_ranks(c.config.model, expert_tensor_size(c.config.model)); }
std::string ranks_make_replicas(const Case& c) {
  const ModelConfig& m = c.config.model;
  const int64_t ranks = m.tensor_model_parallel_size * m.pipeline_model_parallel_size * m.context_parallel_size;
  if (ranks > 0 && c.world_size % ranks == 0) return "";
  return format("{} ranks do not divide into replicas of tensor {} x pipeline {} x context {} = {} ranks", c.world_size, m.tensor_model_parallel_size,
                m.pipeline_model_parallel_size, m.context_parallel_size, ranks);
}
std::string ranks_hold_experts(const Case& c) {
  const ModelConfig& m = c.config.model;
  if (m.num_moe_experts == 0) {
    const int64_t size = m.expert_model_parallel_size;
    return size == 1 ? "" : format("model.expert_model_parallel_size is {}, the model has no experts", size);
  }
  const int64_t ranks = expert_tensor_size(m) * m.expert_model_parallel_size * m.pipeline_model_parallel_size;
  return divides("number of ranks", c.world_size, "expert tensor x expert x pipeline =", ranks);
}
std::string layers_divide_into_stages(const Case& c) {
  const ModelConfig& m = c.config.model;
  if (m.pipeline_model_parallel_size <= 1 || !m.pipeline_model_parallel_layout.empty()) return "";
  int64_t layers = layers_of_pipeline(m), stages = m.pipeline_model_parallel_size;
  for (int64_t given : {m.num_layers_in_first_pipeline_stage, m.num_layers_in_last_pipeline_stage})
    if (given > 0) layers -= given, stages -= 1;
  const int64_t chunks = std::max<int64_t>(m.virtual_pipeline_model_parallel_size, 1);
  return stages == 0 ? "" : divides("pipeline: layers (embedding and loss counted where asked)", layers, "stages x chunks", stages * chunks);
}
std::string chunks_have_ranks(const Case& c) {
  const ModelConfig& m = c.config.model;
  const int64_t chunks = m.virtual_pipeline_model_parallel_size;
  return chunks > 1 && m.pipeline_model_parallel_size == 1
             ? format("model.virtual_pipeline_model_parallel_size {} wants model.pipeline_model_parallel_size > 1", chunks) : "";
}
// As Megatron asserts of --num-layers-per-virtual-pipeline-stage; finalize() has made the number of chunks of it.
std::string chunks_have_their_layers(const Case& c) {
  const ModelConfig& m = c.config.model;
  const int64_t each = m.num_layers_per_virtual_pipeline_stage, ranks = m.pipeline_model_parallel_size;
  if (each == 0) return "";
  constexpr const char* name = "model.num_layers_per_virtual_pipeline_stage";
  if (std::string wrong = at_least(name, each, 1); !wrong.empty() || ranks < 1) return wrong;
  if (!m.pipeline_model_parallel_layout.empty()) return format("{} is given besides model.pipeline_model_parallel_layout", name);
  if (m.num_layers_in_first_pipeline_stage > 0 || m.num_layers_in_last_pipeline_stage > 0)
    return format("{} wants stages of equal length; with num_layers_in_first/last_pipeline_stage give model.virtual_pipeline_model_parallel_size", name);
  const int64_t layers = layers_of_pipeline(m), chunks = std::max<int64_t>(m.virtual_pipeline_model_parallel_size, 1);
  if (layers % ranks != 0) return "";  // said by layers_divide_into_stages
  if (layers / ranks % each != 0) return divides("pipeline: layers of a stage", layers / ranks, name, each);
  return layers / ranks / each == chunks ? "" : format("{} {} makes {} chunks of the {} layers of a stage, model.virtual_pipeline_model_parallel_size is {}",
                                                       name, each, layers / ranks / each, layers / ranks, chunks);
}
std::string context_levels_make_the_axis(const Case& c) {
  const ModelConfig& m = c.config.model;
  const std::vector<int64_t>& levels = m.hierarchical_context_parallel_sizes;
  const bool asked = m.cp_comm_type == "a2a+p2p" && m.context_parallel_size > 1;
  if (!asked && levels.empty()) return "";
  int64_t rest = m.context_parallel_size;  // what the levels leave
  for (const int64_t level : levels) rest = level > 0 && rest % level == 0 ? rest / level : 0;
  if (rest == 1 && (levels.size() == 2 || !asked)) return "";
  return format("model.hierarchical_context_parallel_sizes wants two sizes (neighbours that trade heads, ranks of a ring) whose product is "
                "context_parallel_size {}, not {}", m.context_parallel_size, levels);
}
std::string context_ranks_share_heads(const Case& c) {
  const ModelConfig& m = c.config.model;
  const int64_t tensor = m.tensor_model_parallel_size;
  if (m.context_parallel_size <= 1 || tensor < 1 || (m.cp_comm_type != "a2a" && m.cp_comm_type != "a2a+p2p")) return "";
  const bool levels = m.cp_comm_type == "a2a+p2p";
  if (levels && m.hierarchical_context_parallel_sizes.empty()) return "";  // said by context_levels_make_the_axis
  const int64_t ranks = levels ? m.hierarchical_context_parallel_sizes[0] : m.context_parallel_size, groups = std::max<int64_t>(m.num_query_groups / tensor, 1);
  return ranks < 1 || groups % ranks == 0 ? "" : format("model.cp_comm_type={}: the {} query groups of a rank do not divide over {} context-parallel ranks; "
                                                        "p2p and all_gather do not need that", m.cp_comm_type, groups, ranks);
}
std::string interleaving_has_its_micro_batches(const Case& c) {
  const ModelConfig& m = c.config.model;
  const int64_t model_ranks = m.tensor_model_parallel_size * m.pipeline_model_parallel_size * m.context_parallel_size, micro = c.config.train.micro_batch_size;
  if (m.virtual_pipeline_model_parallel_size <= 1 || model_ranks <= 0 || micro <= 0 || c.world_size % model_ranks != 0) return "";
  return divides("micro-batches of a step with interleaved pipeline stages", c.config.train.global_batch_size / (micro * (c.world_size / model_ranks)),
                 "model.pipeline_model_parallel_size", m.pipeline_model_parallel_size);
}
std::string sequence_parallel_wants_tensor_parallel(const Case& c) {
  const ModelConfig& m = c.config.model;
  return m.sequence_parallel && m.tensor_model_parallel_size == 1 ? "model.sequence_parallel wants model.tensor_model_parallel_size > 1" : "";
}
std::string sequence_divides_over_ranks(const Case& c) {
  const ModelConfig& m = c.config.model;
  // Context parallelism gives every rank an early and a late piece.
  const int64_t pieces = (m.context_parallel_size > 1 ? 2 * m.context_parallel_size : 1) * (m.sequence_parallel ? m.tensor_model_parallel_size : 1);
  return divides("model.seq_length", m.seq_length, "2 x context_parallel_size x tensor_model_parallel_size where those shard it =", pieces);
}
std::string one_fsdp(const Case& c) {
  return c.config.dist.use_megatron_fsdp && c.config.dist.use_torch_fsdp2 ? "dist.use_megatron_fsdp and dist.use_torch_fsdp2 are both true" : "";
}
std::string optimizer_instances_divide_replicas(const Case& c) {
  const ModelConfig& m = c.config.model;
  const int64_t instances = c.config.ddp.num_distributed_optimizer_instances, stage = c.world_size / std::max<int64_t>(m.pipeline_model_parallel_size, 1);
  if (instances == 1) return "";
  const char* by = "ddp.num_distributed_optimizer_instances";
  std::string wrong = divides("replicas x context_parallel_size", stage / std::max<int64_t>(m.tensor_model_parallel_size, 1), by, instances);
  if (!wrong.empty() || m.num_moe_experts == 0) return wrong;
  return divides("ranks that hold the same experts", stage / std::max<int64_t>(expert_tensor_size(m) * m.expert_model_parallel_size, 1), by, instances);
}
std::string outer_shards_extend_inner_ones(const Case& c) {
  return c.config.ddp.outer_dp_sharding_strategy == "optim" && sharding_strategy(c.config) != "optim_grads_params"
             ? format("ddp.outer_dp_sharding_strategy=optim divides the optimizer state of what fully sharded replicas hold: it wants "
                      "ddp.use_megatron_fsdp=true and ddp.data_parallel_sharding_strategy=optim_grads_params, here {}", sharding_strategy(c.config))
             : "";
}

// --- batches and duration ---

std::string batch_divides(const Case& c) {
  const TrainConfig& t = c.config.train;
  const ModelConfig& m = c.config.model;
  const int64_t model_ranks = m.tensor_model_parallel_size * m.pipeline_model_parallel_size * m.context_parallel_size;
  if (model_ranks <= 0 || c.world_size % model_ranks != 0) return "";  // said by ranks_make_replicas
  const int64_t replicas = c.world_size / model_ranks;
  std::string wrong = at_least("train.micro_batch_size", t.micro_batch_size, 1);
  if (wrong.empty()) wrong = at_least("train.accumulate_grad_batches", t.accumulate_grad_batches, 0);
  if (wrong.empty()) wrong = at_least("train.global_batch_size", t.global_batch_size, 1);
  if (wrong.empty() && t.global_batch_size % (t.micro_batch_size * replicas) != 0)
    wrong = format("train.global_batch_size {} is not a multiple of train.micro_batch_size {} x {} replicas = {}", t.global_batch_size,
                   t.micro_batch_size, replicas, t.micro_batch_size * replicas);
  if (!wrong.empty()) return wrong;
  const ValidationConfig& v = c.config.validation;
  if (v.eval_micro_batch_size < 1 || v.eval_global_batch_size < 1 || v.eval_global_batch_size % (v.eval_micro_batch_size * replicas) != 0)
    return format("validation.eval_global_batch_size {} is not a multiple of validation.eval_micro_batch_size {} x {} replicas",
                  v.eval_global_batch_size, v.eval_micro_batch_size, replicas);
  return "";
}
std::string one_duration(const Case& c) {
  const TrainConfig& t = c.config.train;
  if (c.config.validation.skip_train) return "";
  if (t.train_samples > 0 && t.train_iters > 0 && t.global_batch_size > 0 && t.train_iters != t.train_samples / t.global_batch_size)
    return format("train.train_iters {} and train.train_samples {} are both given", t.train_iters, t.train_samples);
  if (t.num_epochs > 0 && (t.train_iters > 0 || t.train_samples > 0))
    return "train.num_epochs is given besides train.train_iters or train.train_samples";
  if (t.num_epochs > 0 && c.config.dataset.kind != "sft") return "train.num_epochs wants dataset.kind=sft";
  return t.train_iters > 0 || t.num_epochs > 0 ? "" : "how long to train is missing: train.train_iters, train.train_samples or train.num_epochs";
}
std::string ramp_is_whole(const Case& c) {
  const auto& ramp = c.config.train.rampup_batch_size;
  if (ramp.empty()) return "";
  if (ramp.size() != 3) return format("train.rampup_batch_size wants start, increment and samples, not {} numbers", ramp.size());
  const TrainConfig& t = c.config.train;
  if (t.train_samples > 0 || t.num_epochs > 0) return "train.rampup_batch_size goes with train.train_iters, not with train.train_samples or train.num_epochs";
  if (ramp[0] < 1 || ramp[1] < 1 || ramp[2] < 1) return format("train.rampup_batch_size {}: start, increment and samples must be positive", ramp);
  if (ramp[0] >= t.global_batch_size) return format("train.rampup_batch_size starts at {}, train.global_batch_size is {}", ramp[0], t.global_batch_size);
  if (std::string wrong = divides("train.global_batch_size - start of the ramp", t.global_batch_size - ramp[0], "the increment", ramp[1]); !wrong.empty())
    return wrong;
  return (t.global_batch_size - ramp[0]) / ramp[1] < 100000 ? "" : format("train.rampup_batch_size {} has too many steps", ramp);
}
// The sizes on the way up to train.global_batch_size, which batch_divides is about.
std::string ramp_divides(const Case& c) {
  const TrainConfig& t = c.config.train;
  const ModelConfig& m = c.config.model;
  const int64_t model_ranks = m.tensor_model_parallel_size * m.pipeline_model_parallel_size * m.context_parallel_size;
  if (t.rampup_batch_size.empty() || !ramp_is_whole(c).empty() || !batch_divides(c).empty() || model_ranks <= 0 || c.world_size % model_ranks != 0) return "";
  const int64_t share = t.micro_batch_size * (c.world_size / model_ranks);
  for (const int64_t size : BatchSizes::all(t)) {
    const int64_t running = t.decrease_batch_size_if_needed ? size / share * share : size;
    if (running == 0 || running % share != 0)
      return format("a step of the ramp of train.rampup_batch_size has {} sequences, for micro_batch_size x replicas = {}{}", size, share,
                    t.decrease_batch_size_if_needed ? "" : "; train.decrease_batch_size_if_needed=true lowers it to a multiple");
    if (m.virtual_pipeline_model_parallel_size > 1 && running / share % m.pipeline_model_parallel_size != 0)
      return format("a step of the ramp of train.rampup_batch_size has {} micro-batches, with interleaved pipeline stages they must be a multiple of {}",
                    running / share, m.pipeline_model_parallel_size);
  }
  return "";
}
std::string evaluation_is_whole(const Case& c) {
  const ValidationConfig& v = c.config.validation;
  std::string wrong = at_least("validation.eval_iters", v.eval_iters, 0);
  return wrong.empty() ? at_least("validation.eval_interval", v.eval_interval, 0) : wrong;
}

// --- optimizer and schedule ---

std::string learning_rates_are_ordered(const Case& c) {
  const OptimizerConfig& o = c.config.optimizer;
  if (c.config.validation.skip_train) return "";
  if (!(o.lr > 0)) return format("optimizer.lr is {}, it must be positive", o.lr);
  if (o.min_lr < 0 || o.min_lr > o.lr) return format("optimizer.min_lr {} must lie between 0 and optimizer.lr {}", o.min_lr, o.lr);
  return "";
}
std::string adam_is_stable(const Case& c) {
  const OptimizerConfig& o = c.config.optimizer;
  std::string wrong = in_unit_interval("optimizer.adam_beta1", o.adam_beta1);
  if (wrong.empty()) wrong = in_unit_interval("optimizer.adam_beta2", o.adam_beta2);
  if (wrong.empty() && !(o.adam_eps > 0)) wrong = format("optimizer.adam_eps is {}, it must be positive", o.adam_eps);
  return wrong;
}
std::string nothing_is_negative(const Case& c) {
  const OptimizerConfig& o = c.config.optimizer;
  if (o.clip_grad < 0) return format("optimizer.clip_grad is {}; 0 switches clipping off", o.clip_grad);
  return o.weight_decay < 0 ? format("optimizer.weight_decay is {}", o.weight_decay) : "";
}
std::string warmup_fits(const Case& c) {
  const SchedulerConfig& s = c.config.scheduler;
  if (s.lr_warmup_fraction && (s.lr_warmup_iters > 0 || s.lr_warmup_samples > 0))
    return "scheduler.lr_warmup_fraction is given besides scheduler.lr_warmup_iters or lr_warmup_samples";
  if (s.lr_warmup_fraction && !(*s.lr_warmup_fraction >= 0 && *s.lr_warmup_fraction <= 1))
    return format("scheduler.lr_warmup_fraction is {}, it must be in [0, 1]", *s.lr_warmup_fraction);
  if (s.lr_decay_iters > 0 && s.lr_warmup_iters > s.lr_decay_iters)
    return format("scheduler.lr_warmup_iters {} is more than scheduler.lr_decay_iters {}", s.lr_warmup_iters, s.lr_decay_iters);
  if (s.lr_decay_samples > 0 && s.lr_warmup_samples > s.lr_decay_samples)
    return format("scheduler.lr_warmup_samples {} is more than scheduler.lr_decay_samples {}", s.lr_warmup_samples, s.lr_decay_samples);
  return "";
}
std::string one_schedule_unit(const Case& c) {
  const SchedulerConfig& s = c.config.scheduler;
  const bool iterations = s.lr_decay_iters > 0 || s.lr_warmup_iters > 0 || s.lr_wsd_decay_iters > 0;
  const bool samples = s.lr_decay_samples > 0 || s.lr_warmup_samples > 0 || s.lr_wsd_decay_samples > 0;
  if (iterations && samples) return "scheduler: some keys count iterations and some samples";
  if (samples && c.config.train.train_samples == 0) return "scheduler keys in samples want train.train_samples";
  if (iterations && c.config.train.train_samples > 0)
    return "train.train_samples wants the scheduler's keys in samples (lr_decay_samples, lr_warmup_samples)";
  return "";
}
std::string weight_decay_grows(const Case& c) {
  const SchedulerConfig& s = c.config.scheduler;
  const double start = s.start_weight_decay.value_or(c.config.optimizer.weight_decay),
               end = s.end_weight_decay.value_or(c.config.optimizer.weight_decay);
  if (start < 0 || end < start) return format("scheduler.start_weight_decay {} and end_weight_decay {}: the end must be the larger", start, end);
  return s.weight_decay_incr_style == "constant" && start != end
             ? format("scheduler.weight_decay_incr_style=constant with start {} and end {}", start, end)
             : "";
}
std::string one_scheduler_wins(const Case& c) {
  const SchedulerConfig& s = c.config.scheduler;
  return s.override_opt_param_scheduler && s.use_checkpoint_opt_param_scheduler
             ? "scheduler.override_opt_param_scheduler and use_checkpoint_opt_param_scheduler are both true"
             : "";
}

// --- data, checkpoints, adapters ---

std::string sequence_lengths_agree(const Case& c) {
  const int64_t model = c.config.model.seq_length, data = c.config.dataset.seq_length;
  return data == 0 || data == model ? "" : format("dataset.seq_length {} and model.seq_length {} differ", data, model);
}
std::string seeds_fit(const Case& c) {
  for (const auto& [name, seed] : {std::pair("rng.seed", c.config.rng.seed), std::pair("dataset.random_seed", c.config.dataset.random_seed)})
    if (seed < 0 || seed > UINT32_MAX) return format("{} is {}, it must be from 0 to {}, as NumPy's generators want it", name, seed, UINT32_MAX);
  return "";
}
std::string one_blend(const Case& c) {
  const DatasetConfig& d = c.config.dataset;
  const bool per_split = !d.train_data_path.empty() || !d.valid_data_path.empty() || !d.test_data_path.empty();
  if (per_split && !d.data_path.empty()) return "dataset.data_path is given besides a blend per split";
  return per_split && !d.split.empty() && d.split != "9999,8,2" ? "dataset.split has no meaning with a blend per split" : "";
}
std::string save_interval_has_a_folder(const Case& c) {
  const CheckpointConfig& k = c.config.checkpoint;
  std::string wrong = at_least("checkpoint.save_interval", k.save_interval, 0);
  if (wrong.empty() && k.save_hf && k.save.empty()) wrong = "checkpoint.save_hf wants checkpoint.save";
  if (wrong.empty() && (k.most_recent_k == 0 || k.most_recent_k < -1))
    wrong = format("checkpoint.most_recent_k is {}; -1 keeps all", k.most_recent_k);
  return wrong;
}
std::string adapter_settings_have_a_scheme(const Case& c) {
  const PeftConfig& peft = c.config.peft;
  const PeftConfig usual;
  if (!peft.scheme.empty() || (peft.dim == usual.dim && peft.alpha == usual.alpha && peft.dropout == usual.dropout && peft.use_rslora == usual.use_rslora &&
                               peft.target_modules == usual.target_modules && peft.exclude_modules == usual.exclude_modules))
    return "";
  return "keys of peft are set, but no scheme is, so that all weights would be trained: give peft=lora, or leave those keys out";
}
std::string adapters_have_a_base(const Case& c) {
  if (c.config.peft.scheme.empty()) return "";
  return c.config.checkpoint.pretrained_checkpoint.empty()
             ? format("peft={} wants the model it adapts: --hf-model or checkpoint.pretrained_checkpoint", c.config.peft.scheme)
             : at_least("peft.dim", c.config.peft.dim, 1);
}
std::string intervals_are_positive(const Case& c) {
  const LoggerConfig& l = c.config.logger;
  std::string wrong = at_least("logger.log_interval", l.log_interval, 1);
  if (wrong.empty()) wrong = at_least("logger.tensorboard_log_interval", l.tensorboard_log_interval, 1);
  return wrong.empty() ? at_least("logger.throughput_window_size", l.throughput_window_size, 1) : wrong;
}

constexpr std::string (*kChecks[])(const Case&) = {
    model_is_known,
    sizes_are_positive,
    heads_divide_into_groups,
    head_dimension_is_even,
    rotary_scaling_is_whole,
    dropout_is_a_share,
    layer_types_are_known,
    experts_fit,
    positions_cover_sequences,
    one_precision,
    precision_matches_dtype,
    recompute_is_whole,
    padding_has_a_capacity,
    recompute_modules_are_known,
    tensor_ranks_share_layers, tensor_ranks_share_experts,
    ranks_make_replicas,
    ranks_hold_experts,
    layers_divide_into_stages,
    chunks_have_ranks,
    chunks_have_their_layers,
    context_levels_make_the_axis,
    context_ranks_share_heads,
    interleaving_has_its_micro_batches,
    sequence_parallel_wants_tensor_parallel,
    sequence_divides_over_ranks,
    one_fsdp,
    optimizer_instances_divide_replicas,
    outer_shards_extend_inner_ones,
    batch_divides,
    one_duration,
    ramp_is_whole,
    ramp_divides,
    evaluation_is_whole,
    learning_rates_are_ordered,
    adam_is_stable,
    nothing_is_negative,
    warmup_fits,
    one_schedule_unit,
    weight_decay_grows,
    one_scheduler_wins,
    sequence_lengths_agree,
    seeds_fit,
    one_blend,
    save_interval_has_a_folder,
    adapter_settings_have_a_scheme,
    adapters_have_a_base,
    intervals_are_positive,
};

}  // namespace

std::string wrong_over_tensor_ranks(const ModelConfig& m, int64_t ranks) {
  const std::string_view by = "tensor_model_parallel_size";
  if (m.num_layers == 0) return "";
  std::string wrong = divides("model.num_attention_heads", m.num_attention_heads, by, ranks);
  if (!wrong.empty()) return wrong;
  if (m.num_query_groups % ranks != 0 && ranks % m.num_query_groups != 0)
    return format("model.num_query_groups {} and {} {}: neither divides the other", m.num_query_groups, by, ranks);
  const bool has_dense_layers = m.num_moe_experts == 0 || std::ranges::find(m.moe_layer_freq, 0) != m.moe_layer_freq.end();
  const std::tuple<std::string_view, int64_t, bool> sizes[] = {
      {"model.ffn_hidden_size", m.ffn_hidden_size, has_dense_layers},
      {"model.moe_shared_expert_intermediate_size", m.moe_shared_expert_intermediate_size, m.num_moe_experts > 0},
      {"model.linear_num_key_heads", m.linear_num_key_heads, true},
      {"model.linear_num_value_heads", m.linear_num_value_heads, true}};
  for (const auto& [name, size, counts] : sizes)
    if (counts && wrong.empty()) wrong = divides(name, size, by, ranks);
  return wrong;
}

std::string wrong_over_expert_tensor_ranks(const ModelConfig& m, int64_t ranks) {
  return m.num_moe_experts == 0 ? "" : divides("model.moe_ffn_hidden_size", m.moe_ffn_hidden_size, "expert_tensor_parallel_size", ranks);
}

std::string wrong_over_expert_ranks(const ModelConfig& m, int64_t ranks) {
  return m.num_moe_experts == 0 ? "" : divides("model.num_moe_experts", m.num_moe_experts, "model.expert_model_parallel_size", ranks);
}

void validate(const Config& config, int64_t world_size) {
  const Case subject{config, world_size};
  std::vector<std::string> wrong;
  for (const auto& check : kChecks)
    if (std::string message = check(subject); !message.empty()) wrong.push_back(std::move(message));
  require(wrong.empty(), "the configuration cannot run:\n  {}", join(wrong, "\n  "));
}

}  // namespace ponte
