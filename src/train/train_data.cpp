#include "train/train_data.h"

#include "base/errors.h"
#include "base/log.h"
#include "checkpoint/load.h"
#include "hub/hub.h"
#include "text/tokenizer.h"

namespace ponte {
namespace {

bool is_mock(const DatasetConfig& d) {
  return d.data_path.empty() && d.train_data_path.empty() && d.valid_data_path.empty() && d.test_data_path.empty();
}

bool needs_document_ends(const DatasetConfig& d) { return d.eod_mask_loss || d.reset_attention_mask || d.reset_position_ids; }

fs::path find_tokenizer(const ResolvedRun& resolved) {
  const std::string& named = resolved.config.tokenizer.tokenizer_model;
  if (named.empty() || resolved.config.tokenizer.tokenizer_type == "NullTokenizer") return resolved.hf_model_folder;
  try {
    return resolve_tokenizer(named);
  } catch (const UserError& e) {
    if (needs_document_ends(resolved.config.dataset)) throw;
    log_warning("training goes on without the tokenizer {}, and checkpoints will hold none: {}", named, e.what());
    return resolved.hf_model_folder;
  }
}

// Megatron ignores a padding id that is also another special token.
int32_t own_padding_id(const Tokenizer& tokenizer) {
  const std::optional<int32_t> pad = tokenizer.pad_id();
  return pad && pad != tokenizer.eos_id() && pad != tokenizer.bos_id() ? *pad : -1;
}

std::optional<Blend> blend_of(const std::vector<std::string>& words) {
  if (words.empty()) return std::nullopt;
  return parse_blend(words);
}

DatasetRequest request_of(const Config& config) {
  const DatasetConfig& d = config.dataset;
  DatasetRequest out{.blend = blend_of(d.data_path),
                     .blend_per_split = {blend_of(d.train_data_path), blend_of(d.valid_data_path), blend_of(d.test_data_path)},
                     .num_samples = {}};
  if (!d.split.empty()) out.split = d.split;
  const std::array<int64_t, 3> samples = requested_samples(config);
  out.wanted = {true, samples[1] > 0, false};  // a run never reads the test split
  for (size_t i = 0; i < samples.size(); ++i) out.num_samples[i] = samples[i];
  return out;
}

std::string fingerprint_of(const DatasetSplits& splits, Split split) {
  const auto& source = splits[static_cast<size_t>(split)];
  return source ? source->fingerprint() : "";
}

}  // namespace

std::string sample_order(const Run& run) {
  const Config& config = run.config;
  if (!config.dataset.order.empty()) return config.dataset.order;
  if (is_mock(config.dataset)) return "megatron";
  if (!run.found || config.checkpoint.finetune) return "permutation";
  if (const std::optional<DataRecord> stored = stored_data(*run.found)) return stored->order;
  return run.found->iteration > 0 ? "megatron" : "permutation";
}

std::array<int64_t, 3> requested_samples(const Config& config) {
  const TrainConfig& t = config.train;
  const ValidationConfig& v = config.validation;
  const int64_t evaluations = v.eval_interval > 0 ? t.train_iters / v.eval_interval + 1 : 0;
  return {t.train_samples > 0 ? t.train_samples : t.train_iters * t.global_batch_size, evaluations * v.eval_iters * v.eval_global_batch_size,
          v.eval_iters * v.eval_global_batch_size};
}

void open_data(const ResolvedRun& resolved, Run& run) {
  const Config& config = run.config;
  run.tokenizer_folder = find_tokenizer(resolved);
  int32_t pad_id = -1;
  if (Tokenizer::is_in(run.tokenizer_folder)) {
    const Tokenizer tokenizer = Tokenizer::load(run.tokenizer_folder);
    run.eod_id = tokenizer.eos_id().value_or(-1);
    pad_id = own_padding_id(tokenizer);
  } else {
    require(!needs_document_ends(config.dataset),
            "dataset.eod_mask_loss, reset_attention_mask and reset_position_ids need a tokenizer; give tokenizer.tokenizer_model");
    if (run.speaks() && !config.tokenizer.tokenizer_model.empty() && !run.tokenizer_folder.empty())
      log_warning("training goes on without the tokenizer {}, and checkpoints will hold none: neither tokenizer.json nor tokenizer.model there",
                  run.tokenizer_folder);
    run.tokenizer_folder.clear();
  }
  DatasetOptions options{.seq_length = config.dataset.seq_length, .random_seed = static_cast<uint32_t>(config.dataset.random_seed),
                         .order = sample_order_from_user(config.dataset.order),
                         .add_extra_token_to_sequence = config.dataset.add_extra_token_to_sequence,
                         .drop_last_partial_validation_sequence = config.dataset.drop_last_partial_validation_sequence,
                         .eod_mask_loss = config.dataset.eod_mask_loss, .mid_level_dataset_surplus = config.dataset.mid_level_dataset_surplus,
                         .eod_id = run.eod_id, .pad_id = pad_id, .vocab_size = config.model.vocab_size,
                         .path_to_cache = config.dataset.path_to_cache};
  if (is_mock(config.dataset) && run.speaks()) log_info("no dataset.data_path: training on mock data");
  if (is_mock(config.dataset) && options.eod_id < 0) options.eod_id = static_cast<int32_t>(config.model.vocab_size - 1);
  run.data = build_datasets(request_of(config), options);
  if (requested_samples(config)[1] > 0 && !run.data[1] && run.speaks())
    log_warning("validation.eval_interval is {}, but there is no validation data (dataset.split, dataset.valid_data_path): nothing will be validated",
                config.validation.eval_interval);
  require(run.data[0] != nullptr, "no training data: dataset.split \"{}\" gives the train split nothing", config.dataset.split);
  run.state.data = {.train_fingerprint = fingerprint_of(run.data, Split::train), .valid_fingerprint = fingerprint_of(run.data, Split::valid),
                    .requested_train_samples = requested_samples(config)[0], .order = config.dataset.order};
}

}  // namespace ponte
