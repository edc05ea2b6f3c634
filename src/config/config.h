// The sections of a run's configuration, with Megatron Bridge's key names and default values (ConfigContainer). Plain aggregates: what each key
// means, how it is spelled and printed is in the field listing (config/listing_*.cpp), from which parsing, printing, overrides, diff and
// docs/configuration.md derive. Convention: 0, "" or an empty list stands for Bridge's null where null means "none"; std::optional where zero
// means something else. docs/configuration.md has one line per key.
#pragma once
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "config/model_config.h"

namespace ponte {

struct TrainConfig {
  int64_t train_iters = 0;        // optimizer steps; 0: from train_samples or num_epochs
  int64_t train_samples = 0;
  double num_epochs = 0;          // of an SFT data set
  int64_t global_batch_size = 0;  // sequences per step; 0: micro_batch_size x data-parallel size
  int64_t micro_batch_size = 1;   // sequences per forward
  int64_t accumulate_grad_batches = 0;  // micro-batches of a replica in a step, which decides global_batch_size; 0: the other way round
  std::vector<int64_t> rampup_batch_size;  // start, increment, samples
  bool decrease_batch_size_if_needed = false;
  int64_t exit_interval = 0;          // stop (saving) when iteration % exit_interval == 0
  int64_t exit_duration_in_mins = 0;  // stop (saving) after this many minutes
  bool exit_signal_handler = true;    // save and exit on SIGTERM
  std::vector<int64_t> iterations_to_skip;
  bool check_for_nan_in_loss = true;  // stop when the loss or the gradient norm is not finite
  bool check_optimizer_step_success = true;
  int64_t check_weight_hash_across_dp_replicas_interval = 0;
};

struct ValidationConfig {
  int64_t eval_iters = 100;     // batches per evaluation; 0: none
  int64_t eval_interval = 0;    // steps between evaluations; 0: none during training
  int64_t start_eval_at_iter = 0;
  int64_t eval_global_batch_size = 0, eval_micro_batch_size = 0;  // 0: as in training
  bool skip_train = false;      // evaluate and exit
  bool full_validation = false;
};

struct OptimizerConfig {
  std::string optimizer = "adam";  // adam, sgd, muon, dist_muon
  double lr = 0;
  double min_lr = 0;
  std::optional<double> decoupled_lr, decoupled_min_lr;  // embedding and output layer
  double weight_decay = 0.01;
  bool apply_wd_to_qk_layernorm = false;
  bool decoupled_weight_decay = true;
  double adam_beta1 = 0.9, adam_beta2 = 0.999, adam_eps = 1e-8;
  double sgd_momentum = 0.9;
  double clip_grad = 1.0;  // 0: no clipping
  bool log_num_zeros_in_grad = false;
  // Precision; set from mixed_precision by finalize().
  bool fp16 = false, bf16 = false;
  DType params_dtype = DType::f32;
  bool use_precision_aware_optimizer = false;
  DType main_grads_dtype = DType::f32, main_params_dtype = DType::f32, exp_avg_dtype = DType::f32, exp_avg_sq_dtype = DType::f32;
  std::optional<double> loss_scale;  // fp16: a constant scale; null: dynamic
  double initial_loss_scale = 4294967296.0, min_loss_scale = 1.0;
  int64_t loss_scale_window = 1000, hysteresis = 2;
  // Distribution and offload.
  bool use_distributed_optimizer = false;
  bool overlap_param_gather = false;
  bool optimizer_cpu_offload = false;
  double optimizer_offload_fraction = 0.0;
  // Muon.
  double muon_momentum = 0.95;
  bool muon_nesterov = false;
  bool muon_split_qkv = true;
  int64_t muon_num_ns_steps = 5;
  std::string muon_scale_mode = "spectral";
  std::string muon_tp_mode = "blockwise";
  double muon_extra_scale_factor = 1.0;
};

struct SchedulerConfig {
  std::string lr_decay_style = "linear";  // constant, linear, cosine, inverse-square-root, WSD
  int64_t lr_decay_iters = 0, lr_decay_samples = 0;  // 0: train_iters
  std::string lr_wsd_decay_style = "exponential";    // exponential, linear, cosine, minus_sqrt
  int64_t lr_wsd_decay_iters = 0, lr_wsd_decay_samples = 0;
  std::optional<double> lr_warmup_fraction;  // of lr_decay_iters; instead of lr_warmup_iters
  int64_t lr_warmup_iters = 0, lr_warmup_samples = 0;
  double lr_warmup_init = 0.0;
  bool override_opt_param_scheduler = false;
  bool use_checkpoint_opt_param_scheduler = false;
  std::optional<double> start_weight_decay, end_weight_decay;  // null: optimizer.weight_decay
  std::string weight_decay_incr_style = "constant";  // constant, linear, cosine
  std::string no_weight_decay_cond_type;             // "" or "qwen3_next"
};

struct DdpConfig {
  bool use_distributed_optimizer = false;
  bool grad_reduce_in_fp32 = false;
  bool overlap_grad_reduce = false, overlap_param_gather = false, align_param_gather = false;
  bool average_in_collective = false;
  bool check_for_nan_in_grad = false, check_for_large_grads = false;
  int64_t bucket_size = 0;
  int64_t num_distributed_optimizer_instances = 1;
  bool use_megatron_fsdp = false;
  std::string data_parallel_sharding_strategy = "no_shard";  // no_shard, optim, optim_grads, optim_grads_params
  std::string outer_dp_sharding_strategy = "no_shard";
};

struct DistConfig {
  std::string distributed_backend = "nccl";  // nccl, gloo; gloo is used wherever there is no GPU
  int64_t distributed_timeout_minutes = 10;
  int64_t distributed_timeout_seconds_after_init = 0;  // 0: distributed_timeout_minutes
  bool use_megatron_fsdp = false, use_torch_fsdp2 = false;
  bool use_tp_pp_dp_mapping = false;
  bool use_gloo_process_groups = true;
};

struct DatasetConfig {
  std::string kind = "gpt";  // gpt: .bin/.idx corpora, or mock data when none is named; sft: conversations or prompt/completion records
  std::vector<std::string> data_path;  // prefixes, or weight prefix weight prefix ...
  std::vector<std::string> train_data_path, valid_data_path, test_data_path;  // one blend per split, instead of data_path + split
  std::string split;                   // "9999,8,2"; "": "969,30,1" where one is needed
  int64_t seq_length = 0;              // 0: model.seq_length
  int64_t random_seed = 0;             // 0: rng.seed
  std::string order;                   // megatron (Megatron Core's GPTDataset) or permutation; "": sample_order() of train/train_data.h decides
  std::string path_to_cache;
  bool reset_position_ids = false, reset_attention_mask = false, eod_mask_loss = false;
  bool mmap_bin_files = true;
  bool drop_last_partial_validation_sequence = true, add_extra_token_to_sequence = true;
  double mid_level_dataset_surplus = 0.005;
  int64_t num_workers = 8;
  std::string dataloader_type;  // "", single, cyclic, batch
  bool data_sharding = true;
  // kind: sft
  std::string dataset_root;  // folder with training.jsonl, validation.jsonl, test.jsonl
  std::string dataset_name;  // a hub data set or a preset: squad, ...
  int64_t packed_sequence_size = 0;  // 0: no packing
  int64_t pad_seq_to_mult = 1;
  bool pad_to_max_length = false;
  double val_proportion = 0.0;
  bool answer_only_loss = true;
};

struct TokenizerConfig {
  std::string tokenizer_type;   // "", HuggingFaceTokenizer, NullTokenizer
  std::string tokenizer_model;  // folder or hub id; "": the model's own
  int64_t vocab_size = 0;       // NullTokenizer
  int64_t make_vocab_size_divisible_by = 128;
  std::string chat_template;    // overrides the tokenizer's own
  bool use_tokenizer_vocab_size = false;
};

struct CheckpointConfig {
  std::string save, load;  // folders; "": none
  int64_t save_interval = 0;
  int64_t most_recent_k = -1;     // keep the newest k; -1: all
  int64_t save_retain_interval = 0;
  bool save_best = false;         // keep the checkpoint with the lowest validation loss besides
  bool save_optim = true, save_rng = true, load_optim = true, load_rng = true;
  bool save_hf = false;           // write <iteration>/hf too (Bridge: also_save_hf_checkpoint)
  bool load_main_params_from_ckpt = false;
  bool finetune = false;          // weights only: iteration 0, fresh optimizer and order
  std::string pretrained_checkpoint;  // a Megatron checkpoint or an HF model whose weights a new run starts from
  int64_t ckpt_step = 0;          // load this iteration; 0: the latest
  bool exit_on_missing_checkpoint = false;
  std::string ckpt_format = "torch_dist";  // torch_dist, fsdp_dtensor
  std::string dist_ckpt_strictness = "assume_ok_unexpected";
  bool dist_ckpt_optim_fully_reshardable = true;  // model-shaped optimizer state: any layout in, any layout out
  bool fully_parallel_save = true, fully_parallel_load = false;
  bool async_save = false;
  bool save_tokenizer_assets = true;
  int64_t non_persistent_save_interval = 0;
};

struct LoggerConfig {
  int64_t log_interval = 100;
  std::string jsonl;              // one JSON object per step at full precision
  std::string tensorboard_dir;    // "": no event files
  int64_t tensorboard_log_interval = 1;
  int64_t tensorboard_queue_size = 1000;
  bool log_params_norm = false;
  bool log_throughput = false, log_throughput_to_tensorboard = false;
  int64_t throughput_window_size = 100;
  bool log_progress = false;
  bool log_timers_to_tensorboard = false, log_loss_scale_to_tensorboard = true, log_validation_ppl_to_tensorboard = false;
  bool log_memory_to_tensorboard = false, log_world_size_to_tensorboard = false, log_runtime_to_tensorboard = false;
  bool log_l2_norm_grad_to_tensorboard = false, log_num_zeros_in_grad = false;
  std::string runtime_time_unit = "hours";
  int64_t timing_log_level = 0;
  std::string save_config_filepath;
};

struct MixedPrecisionConfig {
  std::string name;  // "": null, the model's own dtypes stand; a preset (config/precision.h); "custom": the fields below
  bool fp32 = false, fp16 = false, bf16 = false;
  std::optional<DType> params_dtype, pipeline_dtype, autocast_dtype;
  bool autocast_enabled = false;
  bool grad_reduce_in_fp32 = true;
  std::optional<double> loss_scale;
  double initial_loss_scale = 4294967296.0, min_loss_scale = 1.0;
  int64_t loss_scale_window = 1000, hysteresis = 2;
  std::string fp8, fp8_recipe = "tensorwise";  // "": none; e4m3, hybrid
  bool fp8_param_gather = false;
  std::string fp4, fp4_recipe = "nvfp4";
  bool fp4_param_gather = false;
  bool first_last_layers_bf16 = false;
  int64_t num_layers_at_start_in_bf16 = 0, num_layers_at_end_in_bf16 = 0;
};

struct PeftConfig {
  std::string scheme;  // "": none (full fine-tuning); lora, dora, canonical_lora
  std::vector<std::string> target_modules = {"linear_qkv", "linear_proj", "linear_fc1", "linear_fc2"};
  std::vector<std::string> exclude_modules;
  int64_t dim = 32;
  double alpha = 32;
  double dropout = 0.0;
  std::string dropout_position = "pre";
  std::string lora_A_init_method = "xavier", lora_B_init_method = "zero";
  std::optional<DType> lora_dtype;  // null: the model's
  bool use_rslora = false;
};

struct CommOverlapConfig {
  bool tp_comm_overlap = false;
  std::optional<bool> overlap_p2p_comm, batch_p2p_comm, overlap_grad_reduce, overlap_param_gather;
  bool overlap_moe_expert_parallel_comm = false;
};

struct RngConfig {
  int64_t seed = 1234;
  bool data_parallel_random_init = false;
};

struct ProfilingConfig {
  bool use_pytorch_profiler = false;
  int64_t profile_step_start = 10, profile_step_end = 12;
  std::vector<int64_t> profile_ranks = {0};
  std::string output_dir;  // "": beside the TensorBoard events
};

struct Config {
  ModelConfig model;
  TrainConfig train;
  ValidationConfig validation;
  OptimizerConfig optimizer;
  SchedulerConfig scheduler;
  DdpConfig ddp;
  DistConfig dist;
  DatasetConfig dataset;
  TokenizerConfig tokenizer;
  CheckpointConfig checkpoint;
  LoggerConfig logger;
  MixedPrecisionConfig mixed_precision;
  PeftConfig peft;
  CommOverlapConfig comm_overlap;
  RngConfig rng;
  ProfilingConfig profiling;
};

// Fills what follows from other keys, as Bridge's validation step does: precision (mixed_precision -> model, optimizer, ddp), sequence length on
// both sides, train_iters from train_samples, lr_decay_iters and lr_warmup_iters, weight decay of the scheduler, evaluation batch sizes, the
// default random seed of the data set. Idempotent. UserError when `world_size` ranks make no whole number of replicas, or a list by layer has another length.
void finalize(Config& config, int64_t world_size = 1);

// The learning-rate schedule in Megatron's unit, samples (OptimizerParamScheduler counts consumed sequences). Of a finalized config.
struct SchedulerSteps {
  double warmup = 0;  // not whole when it comes from lr_warmup_fraction
  int64_t decay = 0, wsd_decay = 0, weight_decay = 0;
};
SchedulerSteps scheduler_steps(const Config& config);

// Every cross-field check; `world_size` ranks. Throws one UserError listing every violated check with its numbers. Wants a finalized config.
void validate(const Config& config, int64_t world_size);

// What of the layers does not divide over so many tensor-parallel ranks, of an expert over so many expert-tensor ones, or of the experts over so many
// expert ones: the key and both numbers; "" when all does.
std::string wrong_over_tensor_ranks(const ModelConfig& model, int64_t ranks);
std::string wrong_over_expert_tensor_ranks(const ModelConfig& model, int64_t ranks);
std::string wrong_over_expert_ranks(const ModelConfig& model, int64_t ranks);

// world_size / (tensor x pipeline x context): how many replicas share the data. Throws UserError when it is not a whole number.
int64_t data_parallel_size(const ModelConfig& model, int64_t world_size);
// On which the layers' layout and the experts' both fit: their least common multiple.
int64_t fewest_ranks(const ModelConfig& model);
// What replicas divide among themselves: ddp.data_parallel_sharding_strategy where ddp.use_megatron_fsdp makes it count, else optim or no_shard by
// ddp.use_distributed_optimizer.
std::string sharding_strategy(const Config& config);
// Decoder layers, and the embedding and the loss where a pipeline's split counts them as layers.
int64_t layers_of_pipeline(const ModelConfig& model);
// Micro-batches each replica runs per step.
int64_t num_microbatches(const Config& config, int64_t world_size);

// The parts this configuration needs that this version does not have, one line each ("LoRA adapters: peft.scheme=lora"); empty when it can run.
std::vector<std::string> unsupported_parts(const Config& config, int64_t world_size);

// Keys of ours that change nothing in this version (speed and display only), "section.key"; a run that sets one is told so.
std::span<const std::string_view> idle_keys();

// The whole configuration in the layout of Megatron Bridge's run_config.yaml, with only fields every Bridge from 0.3.1 on knows.
std::string bridge_run_config_yaml(const Config& config);

}  // namespace ponte
