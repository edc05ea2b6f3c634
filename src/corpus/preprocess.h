// Text to Megatron's .bin/.idx, byte for byte as Megatron-LM's tools/preprocess_data.py writes them for the same tokenizer and flags,
// whatever the number of threads. Memory is bounded whatever the input; a run that was stopped, however hard, goes on from its last shard.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/file.h"

namespace ponte {

enum class OnError { stop, skip };
enum class InputFormat { automatic, jsonl, text, parquet };
enum class TextUnit { file, line };  // what a document is in a plain text file

struct PreprocessOptions {
  std::vector<std::string> inputs;  // files, folders (searched through), glob patterns, datasets of the hub (org/name)
  std::string subset;               // of a dataset of the hub
  std::string output_prefix;
  std::string tokenizer_model;      // folder or hub id
  std::vector<std::string> json_keys = {"text"};  // each gives PREFIX_<key>_document; for Parquet, columns
  InputFormat format = InputFormat::automatic;    // by suffix; what has none of ours is read as JSON lines, as Megatron does
  TextUnit text_unit = TextUnit::file;
  bool append_eod = false;
  bool add_special_tokens = true;   // what the tokenizer's own post-processor adds
  int64_t workers = 0;              // 0: one per core
  int64_t partitions = 1;  // document i goes to part i mod partitions, the parts are joined in order: Megatron's order for the same flag
  int64_t max_docs = 0;             // 0: all
  int64_t log_interval = 0;         // print a line every so many documents; 0: the progress bar alone
  OnError on_error = OnError::stop;
  uint64_t max_document_bytes = uint64_t{256} << 20;
  int64_t max_document_tokens = INT32_MAX;    // the format's own limit: it counts in 31 bits
  uint64_t shard_bytes = uint64_t{256} << 20;  // of input text between two points a stopped run can go on from
  bool overwrite = false;
};

struct PreprocessSummary {
  struct Output {
    fs::path prefix;
    int64_t documents = 0, sequences = 0, tokens = 0;
  };
  std::vector<Output> outputs;  // one per key
  int64_t skipped = 0, blank = 0;
  uint64_t text_bytes = 0;      // of input, decompressed
  double seconds = 0;
  bool resumed = false;
};

PreprocessSummary preprocess(const PreprocessOptions& options);

// The format of a file by its name, compression suffixes aside.
InputFormat format_of(const fs::path& file, InputFormat wanted);

}  // namespace ponte
