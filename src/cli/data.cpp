// `ponte data ...`: looks into tokenised corpora, checks them, joins them, and prints the samples a training run would draw.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <optional>

#include "base/errors.h"
#include "base/log.h"
#include "cli/commands.h"
#include "corpus/gpt_dataset.h"
#include "corpus/inspect.h"
#include "format/indexed_dataset.h"

namespace ponte {
namespace {

// "PREFIX", "PREFIX.bin" and "PREFIX.idx" all name the pair.
fs::path prefix_of(const std::string& path) {
  const fs::path p(path);
  return p.extension() == ".bin" || p.extension() == ".idx" ? fs::path(path.substr(0, path.size() - 4)) : p;
}

int inspect(const Arguments& arguments) {
  CLI::App app("Documents, lengths and tokens of a corpus, and any document decoded.", "ponte data inspect");
  std::string prefix, tokenizer;
  InspectOptions options;
  app.add_option("PREFIX", prefix, "path of the .bin/.idx pair, without the suffix")->required();
  app.add_option("--tokenizer-model", tokenizer, "folder or hub id of the tokenizer, to show text");
  within(app.add_option("--document", options.documents, "numbers of the documents to show (from 0)"), 0);
  within(app.add_option("--max-tokens", options.max_tokens, "most tokens shown of each")->capture_default_str(), 0);
  if (parse_arguments(app, arguments) == Parsed::done) return 0;
  const std::string text = inspect_dataset(prefix_of(prefix), tokenizer, options);
  std::fwrite(text.data(), 1, text.size(), stdout);
  return 0;
}

int verify(const Arguments& arguments) {
  CLI::App app("Checks every length, pointer and document boundary of an .idx against its .bin.", "ponte data verify");
  std::vector<std::string> prefixes;
  app.add_option("PREFIX", prefixes, "paths of .bin/.idx pairs, without the suffix")->required();
  if (parse_arguments(app, arguments) == Parsed::done) return 0;
  for (const std::string& prefix : prefixes) {
    const IndexedDataset dataset(prefix_of(prefix));
    dataset.verify();
    std::printf(
        "%s: %s\n", dataset.prefix().c_str(),
        format("whole: {} documents, {} sequences, {} tokens", dataset.documents(), dataset.sequences(), dataset.total_tokens()).c_str());
  }
  return 0;
}

int merge(const Arguments& arguments) {
  CLI::App app("Joins corpora, in the order given, into one.", "ponte data merge");
  std::vector<std::string> inputs;
  std::string output;
  bool overwrite = false;
  app.add_option("--input", inputs, "prefixes of .bin/.idx pairs, or one folder whose pairs are joined in name order")->required();
  app.add_option("--output-prefix", output, "prefix of the joined pair")->required();
  app.add_flag("--overwrite", overwrite, "replace an existing pair");
  if (parse_arguments(app, arguments) == Parsed::done) return 0;
  const std::string summary =
      merge_datasets({inputs.begin(), inputs.end()}, prefix_of(output), overwrite ? OnExisting::replace : OnExisting::refuse);
  std::printf("%s\n", summary.c_str());
  return 0;
}

struct SampleFlags {
  std::vector<std::string> data_path, train, valid, test;
  std::string order, split_name = "train";
  DatasetOptions options;
  std::vector<int64_t> num_samples;
  int64_t first = 0, count = -1;
  bool no_extra = false, keep_partial = false, reset_position_ids = false, reset_attention_mask = false;
};

template <class Values>
void put_list(std::string& line, std::string_view name, const Values& values) {
  line += format(",\"{}\":[", name);
  for (size_t i = 0; i < values.size(); ++i) {
    if (i) line += ',';
    line += std::to_string(static_cast<int64_t>(values[i]));
  }
  line += "]";
}

std::string sample_line(const SampleSource& source, int64_t index, const SampleFlags& f) {
  const auto S = static_cast<size_t>(source.seq_length());
  std::vector<int32_t> tokens(S + 1), positions(S);
  std::vector<float> mask(S);
  source.sample(index, tokens, mask);
  std::string line = format("{{\"index\":{}", index);
  put_list(line, "tokens", tokens);
  put_list(line, "loss_mask", mask);
  const auto inputs = std::span<const int32_t>(tokens).first(S);
  if (f.reset_position_ids) {
    position_ids_from_eod(inputs, f.options.eod_id, positions);
    put_list(line, "position_ids", positions);
  }
  if (f.reset_attention_mask) put_list(line, "segment_starts", segment_starts(inputs, f.options.eod_id));
  return line + "}\n";
}

int samples(const Arguments& arguments) {
  CLI::App app(
      "Prints the samples of a training run, one JSON object per line: seq-length + 1 token ids (inputs, and labels shifted by one) and "
      "the labels' mask.",
      "ponte data samples");
  SampleFlags f;
  DatasetRequest request;
  app.add_option("--data-path", f.data_path, "prefix ..., or weight prefix weight prefix ...; none: mock data");
  app.add_option("--train-data-path", f.train, "a blend for the train split alone");
  app.add_option("--valid-data-path", f.valid, "a blend for the valid split alone");
  app.add_option("--test-data-path", f.test, "a blend for the test split alone");
  app.add_option("--split", request.split, "shares of train, valid and test")->capture_default_str();
  app.add_option("--split-name", f.split_name, "the split to print")
      ->capture_default_str()
      ->check(CLI::IsMember({"train", "valid", "test"}));
  app.add_option("--order", f.order, "megatron or permutation; without it permutation, and megatron for mock data");
  within(app.add_option("--seq-length", f.options.seq_length, "tokens per sample")->required(), 1, int64_t{1} << 30);
  within(app.add_option("--seed", f.options.random_seed, "random seed")->capture_default_str(), 0, UINT32_MAX);
  within(app.add_option("--num-samples", f.num_samples, "samples the run draws from train, valid and test (-1: one epoch)")->expected(3)->delimiter(','), -1);
  within(app.add_option("--first", f.first, "first sample to print")->capture_default_str(), 0);
  within(app.add_option("--count", f.count, "how many (-1: all)")->capture_default_str(), -1);
  within(app.add_option("--eod-id", f.options.eod_id, "end-of-document id"), -1, INT32_MAX);
  within(app.add_option("--pad-id", f.options.pad_id, "padding id, where the tokenizer has one of its own"), -1, INT32_MAX);
  within(app.add_option("--vocab-size", f.options.vocab_size, "for mock data, and to check ids"), 0, INT32_MAX);
  app.add_option("--mid-level-dataset-surplus", f.options.mid_level_dataset_surplus)->capture_default_str();
  app.add_option("--path-to-cache", f.options.path_to_cache, "folder that keeps built indices");
  app.add_flag("--eod-mask-loss", f.options.eod_mask_loss, "mask the label after each end of document");
  app.add_flag("--reset-position-ids", f.reset_position_ids, "print positions that restart after each end of document");
  app.add_flag("--reset-attention-mask", f.reset_attention_mask, "print where segments that attend to themselves only begin");
  app.add_flag("--no-extra-token", f.no_extra, "add_extra_token_to_sequence=false");
  app.add_flag("--keep-partial-validation-sequence", f.keep_partial, "drop_last_partial_validation_sequence=false");
  if (parse_arguments(app, arguments) == Parsed::done) return 0;
  const bool mock = f.data_path.empty() && f.train.empty() && f.valid.empty() && f.test.empty();
  f.options.order = !f.order.empty() ? sample_order_from_user(f.order) : mock ? SampleOrder::megatron : SampleOrder::permutation;
  f.options.add_extra_token_to_sequence = !f.no_extra;
  f.options.drop_last_partial_validation_sequence = !f.keep_partial;
  if (!f.data_path.empty()) request.blend = parse_blend(f.data_path);
  const std::vector<std::string>* per_split[] = {&f.train, &f.valid, &f.test};
  for (size_t i = 0; i < 3; ++i) {
    if (!per_split[i]->empty()) request.blend_per_split[i] = parse_blend(*per_split[i]);
    if (!f.num_samples.empty() && f.num_samples[i] >= 0) request.num_samples[i] = f.num_samples[i];
  }
  const auto splits = build_datasets(request, f.options);
  const auto& source = splits[f.split_name == "train" ? 0 : f.split_name == "valid" ? 1 : 2];
  require(source != nullptr, "split {} is empty", f.split_name);
  const int64_t end = f.count < 0 ? source->size() : f.first + f.count;
  for (int64_t i = f.first; i < end; ++i) {
    const std::string line = sample_line(*source, i, f);
    std::fwrite(line.data(), 1, line.size(), stdout);
  }
  log_info("{} samples, fingerprint {}", source->size(), source->fingerprint());
  return 0;
}

constexpr Command kActions[] = {
    {"inspect", "documents, lengths, tokens; any document decoded", inspect},
    {"verify", "check .idx against .bin", verify},
    {"merge", "join corpora", merge},
    {"samples", "print the samples a training run draws", samples},
};

}  // namespace

int run_data(const Arguments& arguments) {
  if (arguments.empty() || arguments[0] == "--help" || arguments[0] == "-h") {
    std::printf("usage: ponte data ACTION [flags]      ponte data ACTION --help for its flags\n\n");
    for (const Command& action : kActions)
      std::printf("  %-10s %s\n", std::string(action.name).c_str(), std::string(action.summary).c_str());
    return 0;
  }
  std::vector<std::string> names;
  for (const Command& action : kActions) {
    if (action.name == arguments[0]) return action.run(Arguments(arguments.begin() + 1, arguments.end()));
    names.emplace_back(action.name);
  }
  const std::string near = nearest(arguments[0], names);
  fail("'data {}' is not a command{}; see ponte data --help", arguments[0], near.empty() ? "" : format(", did you mean 'data {}'?", near));
}

}  // namespace ponte
