// Rows of the sections about data in and results out: dataset, tokenizer, checkpoint, logger, peft.
#include "config/field_types.h"

namespace ponte {
namespace {

void list_dataset(Listing<DatasetConfig> row) {
  using D = DatasetConfig;
  row("kind", &D::kind, {"gpt", "sft"}, "gpt: .bin/.idx corpora, or mock data when none is named; sft: fine-tuning records");
  row("data_path", &D::data_path, "prefixes of .bin/.idx files, or weight prefix weight prefix; empty: mock data");
  row("train_data_path", &D::train_data_path, "blend of the training split, instead of data_path and split");
  row("valid_data_path", &D::valid_data_path, "blend of the validation split");
  row("test_data_path", &D::test_data_path, "blend of the test split");
  row("split", &D::split, none_is_null, "shares of training, validation and test documents, e.g. \"9999,8,2\"");
  row("seq_length", &D::seq_length, none_is_null, "tokens per sample; null: model.seq_length");
  row("random_seed", &D::random_seed, none_is_null, "seed of the sample order; null: rng.seed");
  row("order", &D::order, none_is_null, {"megatron", "permutation"},
      "sample order: Megatron Core's, or a permutation of any size without an index; null: a continued run's own, megatron for mock data, else permutation");
  row("path_to_cache", &D::path_to_cache, none_is_null, "order megatron: folder that keeps sample indices; null: they are built at every start");
  row("reset_position_ids", &D::reset_position_ids, "positions start over after each document");
  row("reset_attention_mask", &D::reset_attention_mask, "no attention across documents");
  row("eod_mask_loss", &D::eod_mask_loss, "no loss on end-of-document tokens");
  row("mmap_bin_files", &D::mmap_bin_files, "map .bin files instead of reading them");
  row("drop_last_partial_validation_sequence", &D::drop_last_partial_validation_sequence, "leave out the last, shorter validation sequence");
  row("add_extra_token_to_sequence", &D::add_extra_token_to_sequence, "samples of seq_length + 1 tokens, so that the last input has a label too");
  row("mid_level_dataset_surplus", &D::mid_level_dataset_surplus,
      "order megatron, weighted blends: share of samples each corpus is prepared for beyond its own");
  row("num_workers", &D::num_workers, "threads that prepare batches, a step each; two at most");
  row("dataloader_type", &D::dataloader_type, none_is_null, {"single", "cyclic", "batch"}, "one pass, shuffled passes, or whole batches");
  row("data_sharding", &D::data_sharding, "cyclic: each replica shuffles its own share");
  row("dataset_root", &D::dataset_root, none_is_null, "sft: folder with training.jsonl, validation.jsonl, test.jsonl");
  row("dataset_name", &D::dataset_name, none_is_null, "sft: hub data set or preset such as squad");
  row("packed_sequence_size", &D::packed_sequence_size, none_is_null, "sft: tokens per pack; -1: seq_length; null: no packing");
  row("pad_seq_to_mult", &D::pad_seq_to_mult, "sft: pad every record of a pack to a multiple of this");
  row("pad_to_max_length", &D::pad_to_max_length, "sft: pad every sample to seq_length");
  row("val_proportion", &D::val_proportion, "sft: share of the training records used for validation when there is no validation set");
  row("answer_only_loss", &D::answer_only_loss, "sft: loss on answers only");
}

void list_tokenizer(Listing<TokenizerConfig> row) {
  using T = TokenizerConfig;
  row("tokenizer_type", &T::tokenizer_type, none_is_null, {"HuggingFaceTokenizer", "NullTokenizer"}, "NullTokenizer: integers, for mock data");
  row("tokenizer_model", &T::tokenizer_model, none_is_null, "folder or hub id; null: the model's own");
  row("vocab_size", &T::vocab_size, none_is_null, "NullTokenizer: number of tokens");
  row("make_vocab_size_divisible_by", &T::make_vocab_size_divisible_by, "padding of the vocabulary at run time; files never hold padding");
  row("chat_template", &T::chat_template, none_is_null, "in place of the tokenizer's own");
  row("use_tokenizer_vocab_size", &T::use_tokenizer_vocab_size, "without weights to start from, a tokenizer named by the user decides model.vocab_size");
}

void list_checkpoint(Listing<CheckpointConfig> row) {
  using C = CheckpointConfig;
  row("save", &C::save, none_is_null, "folder for checkpoints");
  row("load", &C::load, none_is_null, "folder to resume from, when it holds a checkpoint");
  row("save_interval", &C::save_interval, none_is_null, "steps between checkpoints");
  row("most_recent_k", &C::most_recent_k, "keep the newest k; -1: all");
  row("save_retain_interval", &C::save_retain_interval, none_is_null, "iterations that are multiples of this are never removed");
  row("save_best", &C::save_best, "keep the checkpoint with the lowest validation loss besides");
  row("save_optim", &C::save_optim, "with optimizer state");
  row("save_rng", &C::save_rng, "with the states of the random generators");
  row("load_optim", &C::load_optim, "resume the optimizer state");
  row("load_rng", &C::load_rng, "resume the random generators");
  row("save_hf", &C::save_hf, "write each checkpoint in HF format too (Bridge: also_save_hf_checkpoint)");
  row("load_main_params_from_ckpt", &C::load_main_params_from_ckpt, "master weights from the checkpoint's parameters");
  row("finetune", &C::finetune, "take only the weights: iteration 0, fresh optimizer and order");
  row("pretrained_checkpoint", &C::pretrained_checkpoint, none_is_null, "checkpoint or HF model whose weights a new run starts from");
  row("ckpt_step", &C::ckpt_step, none_is_null, "iteration to load; null: the latest");
  row("exit_on_missing_checkpoint", &C::exit_on_missing_checkpoint, "stop when load holds no checkpoint");
  row("ckpt_format", &C::ckpt_format, {"torch_dist", "fsdp_dtensor"}, "format on disk");
  row("dist_ckpt_strictness", &C::dist_ckpt_strictness,
      {"assume_ok_unexpected", "log_unexpected", "log_all", "raise_unexpected", "raise_all", "return_unexpected", "return_all", "ignore_all"},
      "accepted for Bridge's sake: a tensor that is missing is always an error");
  row("dist_ckpt_optim_fully_reshardable", &C::dist_ckpt_optim_fully_reshardable, "model-shaped optimizer state, loadable in any parallel layout");
  row("fully_parallel_save", &C::fully_parallel_save, "replicas share the writing");
  row("fully_parallel_load", &C::fully_parallel_load, "replicas share the reading");
  row("async_save", &C::async_save, "write while training goes on");
  row("save_tokenizer_assets", &C::save_tokenizer_assets, "with the tokenizer's files");
  row("non_persistent_save_interval", &C::non_persistent_save_interval, none_is_null, "steps between checkpoints of which only the newest is kept");
}

void list_logger(Listing<LoggerConfig> row) {
  using L = LoggerConfig;
  row("log_interval", &L::log_interval, "steps between log lines");
  row("jsonl", &L::jsonl, none_is_null, "file with one JSON object per step at full precision");
  row("tensorboard_dir", &L::tensorboard_dir, none_is_null, "folder for TensorBoard event files");
  row("tensorboard_log_interval", &L::tensorboard_log_interval, "steps between points of the curves");
  row("tensorboard_queue_size", &L::tensorboard_queue_size, "events held before they are written");
  row("log_params_norm", &L::log_params_norm, "norm of the parameters");
  row("log_throughput", &L::log_throughput, "TFLOP/s in the log line");
  row("log_throughput_to_tensorboard", &L::log_throughput_to_tensorboard, "throughput curves");
  row("throughput_window_size", &L::throughput_window_size, "steps the throughput is averaged over");
  row("log_progress", &L::log_progress, "append progress to progress.txt in checkpoint.save");
  row("log_timers_to_tensorboard", &L::log_timers_to_tensorboard, "curves of the step's parts");
  row("log_loss_scale_to_tensorboard", &L::log_loss_scale_to_tensorboard, "curve of the loss scale");
  row("log_validation_ppl_to_tensorboard", &L::log_validation_ppl_to_tensorboard, "curve of the validation perplexity");
  row("log_memory_to_tensorboard", &L::log_memory_to_tensorboard, "memory curves");
  row("log_world_size_to_tensorboard", &L::log_world_size_to_tensorboard, "curve of the number of ranks");
  row("log_runtime_to_tensorboard", &L::log_runtime_to_tensorboard, "curve of the estimated total time");
  row("log_l2_norm_grad_to_tensorboard", &L::log_l2_norm_grad_to_tensorboard, "gradient norm of each layer");
  row("log_num_zeros_in_grad", &L::log_num_zeros_in_grad, "count zeros in the gradient");
  row("runtime_time_unit", &L::runtime_time_unit, {"seconds", "minutes", "hours", "days"}, "unit of the estimated total time");
  row("timing_log_level", &L::timing_log_level, "0: the step only; 1, 2: its parts");
  row("save_config_filepath", &L::save_config_filepath, none_is_null, "write the effective configuration there");
}

void list_peft(Listing<PeftConfig> row) {
  using P = PeftConfig;
  row("scheme", &P::scheme, none_is_null, {"lora", "dora", "canonical_lora"}, "kind of adapter (peft=lora); null: all weights are trained");
  row("target_modules", &P::target_modules, "linear layers with adapters; wildcards as in *.layers.0.*.linear_qkv");
  row("exclude_modules", &P::exclude_modules, "linear layers without");
  row("dim", &P::dim, "rank of the adapters");
  row("alpha", &P::alpha, "adapters are scaled by alpha / dim");
  row("dropout", &P::dropout, "dropout in the adapters");
  row("dropout_position", &P::dropout_position, {"pre", "post"}, "before or after the adapter");
  row("lora_A_init_method", &P::lora_A_init_method, {"xavier", "normal", "uniform", "kaiming", "zero"}, "initial values of A");
  row("lora_B_init_method", &P::lora_B_init_method, {"xavier", "normal", "uniform", "kaiming", "zero"}, "initial values of B");
  row("lora_dtype", &P::lora_dtype, "dtype of the adapters; null: the model's");
  row("use_rslora", &P::use_rslora, "scale by alpha / sqrt(dim)");
}

}  // namespace

void list_data(std::vector<Field>& rows) {
  list_dataset({rows, "dataset", &Config::dataset});
  list_tokenizer({rows, "tokenizer", &Config::tokenizer});
  list_checkpoint({rows, "checkpoint", &Config::checkpoint});
  list_logger({rows, "logger", &Config::logger});
  list_peft({rows, "peft", &Config::peft});
}

}  // namespace ponte
