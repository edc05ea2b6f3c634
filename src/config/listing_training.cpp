// Rows of the sections that say how training proceeds: train, validation, optimizer, scheduler.
#include "config/field_types.h"

namespace ponte {
namespace {

void list_train(Listing<TrainConfig> row) {
  using T = TrainConfig;
  row("train_iters", &T::train_iters, none_is_null, "optimizer steps");
  row("train_samples", &T::train_samples, none_is_null, "sequences to train on, instead of train_iters");
  row("num_epochs", &T::num_epochs, none_is_null, "passes over a fine-tuning data set, instead of train_iters");
  row("global_batch_size", &T::global_batch_size, none_is_null, "sequences per step; null: micro_batch_size x data-parallel size");
  row("micro_batch_size", &T::micro_batch_size, "sequences per forward pass on one replica");
  row("accumulate_grad_batches", &T::accumulate_grad_batches, none_is_null,
      "micro-batches of one replica in a step: global_batch_size is this x micro_batch_size x data-parallel size; null: as that says");
  row("rampup_batch_size", &T::rampup_batch_size,
      "batch size ramp: sequences of the first step, by how many they grow, and over how many samples they reach global_batch_size");
  row("decrease_batch_size_if_needed", &T::decrease_batch_size_if_needed, "lower the batch size of a ramp until replicas divide it");
  row("exit_interval", &T::exit_interval, none_is_null, "save and stop when the iteration is a multiple of this");
  row("exit_duration_in_mins", &T::exit_duration_in_mins, none_is_null, "save and stop after so many minutes");
  row("exit_signal_handler", &T::exit_signal_handler, "save and stop on SIGTERM");
  row("iterations_to_skip", &T::iterations_to_skip, "iterations whose data is read and not trained on");
  row("check_for_nan_in_loss", &T::check_for_nan_in_loss, "stop when the loss or the gradient norm is not finite, naming layer, step and samples");
  row("check_optimizer_step_success", &T::check_optimizer_step_success, "stop when a step outside fp16 loss scaling is skipped");
  row("check_weight_hash_across_dp_replicas_interval", &T::check_weight_hash_across_dp_replicas_interval, none_is_null,
      "compare the replicas' weights every so many steps");
}

void list_validation(Listing<ValidationConfig> row) {
  using V = ValidationConfig;
  row("eval_iters", &V::eval_iters, "batches per evaluation; 0: no evaluation");
  row("eval_interval", &V::eval_interval, none_is_null, "steps between evaluations");
  row("start_eval_at_iter", &V::start_eval_at_iter, none_is_null, "no evaluation before this step");
  row("eval_global_batch_size", &V::eval_global_batch_size, none_is_null, "null: as in training");
  row("eval_micro_batch_size", &V::eval_micro_batch_size, none_is_null, "null: as in training");
  row("skip_train", &V::skip_train, "evaluate and stop");
  row("full_validation", &V::full_validation, "every evaluation covers the whole validation set");
}

void list_optimizer(Listing<OptimizerConfig> row) {
  using O = OptimizerConfig;
  row("optimizer", &O::optimizer, {"adam", "sgd", "muon", "dist_muon"}, "adam is AdamW");
  row("lr", &O::lr, none_is_null, "highest learning rate");
  row("min_lr", &O::min_lr, none_is_null, "learning rate at the end of the decay");
  row("decoupled_lr", &O::decoupled_lr, "learning rate of embedding and output layer");
  row("decoupled_min_lr", &O::decoupled_min_lr, "its lowest value");
  row("weight_decay", &O::weight_decay, "weight decay of matrices; biases and 1-D weights have none");
  row("apply_wd_to_qk_layernorm", &O::apply_wd_to_qk_layernorm, "decay query and key norms too");
  row("decoupled_weight_decay", &O::decoupled_weight_decay, "decay the weights (AdamW) rather than the gradients");
  row("adam_beta1", &O::adam_beta1, "decay of the first moment");
  row("adam_beta2", &O::adam_beta2, "decay of the second moment");
  row("adam_eps", &O::adam_eps, "added to the root of the second moment");
  row("sgd_momentum", &O::sgd_momentum, "momentum of sgd");
  row("clip_grad", &O::clip_grad, "highest global gradient norm; 0: no clipping");
  row("log_num_zeros_in_grad", &O::log_num_zeros_in_grad, "count zeros in the gradient");
  row("fp16", &O::fp16, "set by mixed_precision unless that is null");
  row("bf16", &O::bf16, "set by mixed_precision unless that is null");
  row("params_dtype", &O::params_dtype, "set by mixed_precision unless that is null");
  row("use_precision_aware_optimizer", &O::use_precision_aware_optimizer, "honour the four dtypes below");
  row("main_grads_dtype", &O::main_grads_dtype, "dtype of accumulated gradients");
  row("main_params_dtype", &O::main_params_dtype, "dtype of master weights");
  row("exp_avg_dtype", &O::exp_avg_dtype, "dtype of first moments");
  row("exp_avg_sq_dtype", &O::exp_avg_sq_dtype, "dtype of second moments");
  row("loss_scale", &O::loss_scale, "fp16: constant loss scale; null: dynamic");
  row("initial_loss_scale", &O::initial_loss_scale, "fp16: first dynamic loss scale");
  row("min_loss_scale", &O::min_loss_scale, "fp16: lowest dynamic loss scale");
  row("loss_scale_window", &O::loss_scale_window, "fp16: good steps before the scale doubles");
  row("hysteresis", &O::hysteresis, "fp16: overflows before the scale halves");
  row("use_distributed_optimizer", &O::use_distributed_optimizer, "shard optimizer state over the replicas; follows ddp.use_distributed_optimizer");
  row("overlap_param_gather", &O::overlap_param_gather, "gather updated parameters during the next forward pass");
  row("optimizer_cpu_offload", &O::optimizer_cpu_offload, "keep optimizer state in host memory");
  row("optimizer_offload_fraction", &O::optimizer_offload_fraction, "share of the state kept there");
  row("muon_momentum", &O::muon_momentum, "muon: momentum");
  row("muon_nesterov", &O::muon_nesterov, "muon: Nesterov momentum");
  row("muon_split_qkv", &O::muon_split_qkv, "muon: orthogonalise queries, keys and values separately");
  row("muon_num_ns_steps", &O::muon_num_ns_steps, "muon: Newton-Schulz steps");
  row("muon_scale_mode", &O::muon_scale_mode, {"spectral", "unit_rms_norm", "shape_scaling"}, "muon: scale of the update");
  row("muon_tp_mode", &O::muon_tp_mode, {"blockwise", "duplicated", "distributed"}, "muon: how tensor-parallel shards are orthogonalised");
  row("muon_extra_scale_factor", &O::muon_extra_scale_factor, "muon: further factor on the update");
}

void list_scheduler(Listing<SchedulerConfig> row) {
  using S = SchedulerConfig;
  row("lr_decay_style", &S::lr_decay_style, {"constant", "linear", "cosine", "inverse-square-root", "WSD"},
      "shape of the learning rate after warm-up");
  row("lr_decay_iters", &S::lr_decay_iters, none_is_null, "step at which the decay ends; null: train_iters");
  row("lr_decay_samples", &S::lr_decay_samples, none_is_null, "the same in samples");
  row("lr_wsd_decay_style", &S::lr_wsd_decay_style, {"exponential", "linear", "cosine", "minus_sqrt"}, "WSD: shape of the final decay");
  row("lr_wsd_decay_iters", &S::lr_wsd_decay_iters, none_is_null, "WSD: steps of the final decay");
  row("lr_wsd_decay_samples", &S::lr_wsd_decay_samples, none_is_null, "the same in samples");
  row("lr_warmup_fraction", &S::lr_warmup_fraction, "warm-up as a share of the decay, instead of lr_warmup_iters");
  row("lr_warmup_iters", &S::lr_warmup_iters, "steps of linear warm-up");
  row("lr_warmup_samples", &S::lr_warmup_samples, "the same in samples");
  row("lr_warmup_init", &S::lr_warmup_init, "learning rate the warm-up starts from");
  row("override_opt_param_scheduler", &S::override_opt_param_scheduler, "on resume, this schedule wins over the checkpoint's");
  row("use_checkpoint_opt_param_scheduler", &S::use_checkpoint_opt_param_scheduler, "on resume, the checkpoint's schedule wins");
  row("start_weight_decay", &S::start_weight_decay, "weight decay at the first step; null: optimizer.weight_decay");
  row("end_weight_decay", &S::end_weight_decay, "weight decay at the last step; null: optimizer.weight_decay");
  row("weight_decay_incr_style", &S::weight_decay_incr_style, {"constant", "linear", "cosine"}, "how weight decay moves between the two");
  row("no_weight_decay_cond_type", &S::no_weight_decay_cond_type, none_is_null, {"qwen3_next"}, "other rule for which weights have no decay");
}

}  // namespace

void list_training(std::vector<Field>& rows) {
  list_train({rows, "train", &Config::train});
  list_validation({rows, "validation", &Config::validation});
  list_optimizer({rows, "optimizer", &Config::optimizer});
  list_scheduler({rows, "scheduler", &Config::scheduler});
}

}  // namespace ponte
