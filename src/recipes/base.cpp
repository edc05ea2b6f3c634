// What recipes of a mode share, after Megatron Bridge's recipes/common.py and recipes/utils/optimizer_utils.py.
#include "config/precision.h"
#include "recipes/recipes.h"

namespace ponte {
namespace {

constexpr const char* kOutput = "./nemo_experiments/default";  // Bridge's folder, so that its users find their files

// distributed_fused_adam_with_cosine_annealing
void adam_with_cosine(Config& c, double lr, double min_lr, int64_t warmup_iters, double beta2) {
  c.optimizer.lr = lr;
  c.optimizer.min_lr = min_lr;
  c.optimizer.adam_beta2 = beta2;
  c.optimizer.weight_decay = 0.1;
  c.optimizer.use_distributed_optimizer = true;
  c.scheduler.lr_decay_style = "cosine";
  c.scheduler.lr_wsd_decay_style = "minus_sqrt";
  c.scheduler.lr_warmup_iters = warmup_iters;
  c.scheduler.start_weight_decay = c.scheduler.end_weight_decay = 0.033;
  c.scheduler.override_opt_param_scheduler = true;
}

void output_and_precision(Config& c, int64_t log_interval, int64_t save_interval) {
  c.logger.log_interval = log_interval;
  c.logger.log_timers_to_tensorboard = true;
  c.logger.tensorboard_dir = std::string(kOutput) + "/tb_logs";
  c.checkpoint.save = c.checkpoint.load = std::string(kOutput) + "/checkpoints";
  c.checkpoint.save_interval = save_interval;
  c.tokenizer.tokenizer_type = "HuggingFaceTokenizer";
  c.mixed_precision = precision_preset("bf16_mixed");
  c.ddp.check_for_nan_in_grad = true;
  c.ddp.grad_reduce_in_fp32 = true;
}

// Both kinds of fine-tuning: SQuAD packed to 2048 tokens.
void finetune_base(Config& c, double lr) {
  adam_with_cosine(c, lr, 0.0, 50, 0.98);
  output_and_precision(c, 1, 100);
  c.model.seq_length = 2048;
  c.train.train_iters = 1000;
  c.train.global_batch_size = 128;
  c.validation.eval_interval = 100;
  c.validation.eval_iters = 32;
  c.dataset.kind = "sft";
  c.dataset.dataset_name = "squad";
  c.dataset.packed_sequence_size = 2048;
  c.dataset.pad_to_max_length = true;
  c.dataset.val_proportion = 0.1;
  c.dataset.dataloader_type = "batch";
  c.dataset.num_workers = 1;
  c.rng.seed = c.dataset.random_seed = 5678;
}

}  // namespace

void pretrain_base(Config& c) {
  adam_with_cosine(c, 3e-4, 3e-5, 500, 0.95);
  output_and_precision(c, 10, 500);
  c.model.seq_length = 4096;
  c.train.train_iters = 300000;
  c.train.global_batch_size = 32;
  c.train.micro_batch_size = 2;
  c.validation.eval_interval = 500;
  c.validation.eval_iters = 32;
  c.ddp.use_distributed_optimizer = c.ddp.overlap_grad_reduce = c.ddp.overlap_param_gather = c.ddp.average_in_collective = true;
  c.ddp.data_parallel_sharding_strategy = "optim_grads_params";
  c.dataset.split = "9999,8,2";
  c.dataset.random_seed = 1234;
  c.dataset.dataloader_type = "single";
  c.tokenizer.use_tokenizer_vocab_size = true;
}

void sft_base(Config& c) { finetune_base(c, 5e-6); }

void peft_base(Config& c) {
  finetune_base(c, 1e-4);
  c.peft.scheme = "lora";
}

}  // namespace ponte
