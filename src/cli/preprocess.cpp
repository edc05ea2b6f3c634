// `ponte preprocess`: text to tokenised .bin/.idx, with the flags of Megatron-LM's tools/preprocess_data.py and a few of its users' wishes.
#include "corpus/preprocess.h"

#include <CLI/CLI.hpp>
#include <cstdio>

#include "base/errors.h"
#include "cli/commands.h"

namespace ponte {
namespace {

constexpr const char* kHelp =
    "Text to Megatron's tokenised corpus: PREFIX_<key>_document.bin and .idx, equal byte for byte to those of Megatron-LM's "
    "preprocess_data.py. A run that was "
    "stopped goes on where its last shard ended when the same command is given again.";

struct Flags {
  PreprocessOptions options;
  std::string tokenizer_type = "HuggingFaceTokenizer", on_error = "stop", input_format = "auto", text_unit = "file";
  bool split_sentences = false, no_special = false, keep_sequential = false, keep_newlines = false;
};

void add_flags(CLI::App& app, Flags& f) {
  PreprocessOptions& o = f.options;
  app.add_option("--input", o.inputs,
                 "files (.jsonl, .txt, .parquet; JSON lines and text also .gz and .zst), folders, patterns in quotes, or datasets of the "
                 "hub (org/name)");
  app.add_option("--subset", o.subset, "subset of a dataset of the hub; without --input that of HuggingFaceFW/fineweb");
  app.add_option("--output-prefix", o.output_prefix, "path of the output without _<key>_document.bin/.idx")->required();
  app.add_option("--tokenizer-model", o.tokenizer_model, "folder or hub id with tokenizer.json")->required();
  app.add_option("--tokenizer-type", f.tokenizer_type, "HuggingFaceTokenizer")->capture_default_str();
  app.add_option("--json-keys", o.json_keys, "keys (Parquet: columns) to take, each giving an output of its own")->capture_default_str();
  app.add_flag("--append-eod", o.append_eod, "end every document with the tokenizer's end-of-sequence id");
  within(app.add_option("--workers", o.workers, "threads (0: one per core)")->capture_default_str(), 0, kMostThreads);
  within(app.add_option("--max-docs", o.max_docs, "stop after this many documents (0: all)")->capture_default_str(), 0);
  within(app.add_option("--partitions", o.partitions, "order documents as Megatron does with this many partitions")->capture_default_str(), 1, 1 << 20);
  app.add_flag("--keep-sequential-samples", f.keep_sequential, "with --partitions: keep the input's order");
  within(app.add_option("--log-interval", o.log_interval, "print a line every so many documents (0: only the progress bar)")->capture_default_str(), 0);
  app.add_option("--on-error", f.on_error, "at a bad document: stop, or skip it and count")
      ->capture_default_str()
      ->check(CLI::IsMember({"stop", "skip"}));
  within(app.add_option("--max-document-bytes", o.max_document_bytes, "longer documents are errors")->capture_default_str(), 1);
  within(app.add_option("--shard-bytes", o.shard_bytes, "input text between two points a stopped run can go on from")->capture_default_str(), 1);
  app.add_option("--input-format", f.input_format, "auto (by suffix), jsonl, text or parquet")
      ->capture_default_str()
      ->check(CLI::IsMember({"auto", "jsonl", "text", "parquet"}));
  app.add_option("--text-documents", f.text_unit, "in plain text, a document is a file or a line")
      ->capture_default_str()
      ->check(CLI::IsMember({"file", "line"}));
  app.add_flag("--tokenizer-hf-no-include-special-tokens", f.no_special,
               "leave out what the tokenizer adds by itself, such as a leading <s>");
  app.add_flag("--overwrite", o.overwrite, "replace existing outputs");
  app.add_flag("--split-sentences", f.split_sentences)->group("");
  app.add_flag("--keep-newlines", f.keep_newlines)->group("");
}

void apply(Flags& f) {
  require(f.tokenizer_type == "HuggingFaceTokenizer",
          "--tokenizer-type {}: only HuggingFaceTokenizer is there; it reads the tokenizer.json of any supported family", f.tokenizer_type);
  for (const auto& [flag, given] : {std::pair("--split-sentences", f.split_sentences), std::pair("--keep-newlines", f.keep_newlines)})
    require(!given, "{}: sentence splitting serves BERT-style training and is not offered; give lists of sentences under the key instead", flag);
  if (f.options.inputs.empty() && !f.options.subset.empty()) f.options.inputs = {"HuggingFaceFW/fineweb"};
  if (f.keep_sequential) f.options.partitions = 1;  // Megatron's joined partitions are then in the input's order
  f.options.add_special_tokens = !f.no_special;
  f.options.on_error = f.on_error == "skip" ? OnError::skip : OnError::stop;
  f.options.text_unit = f.text_unit == "line" ? TextUnit::line : TextUnit::file;
  f.options.format = f.input_format == "jsonl"     ? InputFormat::jsonl
                     : f.input_format == "text"    ? InputFormat::text
                     : f.input_format == "parquet" ? InputFormat::parquet
                                                   : InputFormat::automatic;
}

}  // namespace

int run_preprocess(const Arguments& arguments) {
  CLI::App app(kHelp, "ponte preprocess");
  Flags flags;
  add_flags(app, flags);
  if (parse_arguments(app, arguments) == Parsed::done) return 0;
  apply(flags);
  const PreprocessSummary summary = preprocess(flags.options);
  for (const auto& output : summary.outputs)
    std::printf("%s\n", format("{}.bin/.idx: {} documents, {} tokens", output.prefix, output.documents, output.tokens).c_str());
  const double seconds = std::max(summary.seconds, 1e-3);
  std::printf("%s\n", format("{} of text in {} ({:.1f} MB/s){}{}", human_bytes(summary.text_bytes), human_seconds(summary.seconds),
                             static_cast<double>(summary.text_bytes) / seconds / 1e6,
                             summary.skipped ? format("; {} bad documents skipped", summary.skipped) : "",
                             summary.blank ? format("; {} blank lines", summary.blank) : "")
                          .c_str());
  return 0;
}

}  // namespace ponte
