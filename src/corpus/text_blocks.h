// Input files as a stream of blocks of whole documents, each with the place behind it, so that reading can go on from there.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "corpus/input_files.h"
#include "format/jsonl.h"
#include "format/parquet.h"

namespace ponte {

// A place between two documents of the input.
struct InputPlace {
  int64_t file = 0;      // number in the list of files
  uint64_t offset = 0;   // in the decompressed file (Parquet: rows read)
  int64_t line = 1;      // that begins there (Parquet: row, from 1)
  bool operator==(const InputPlace&) const = default;
};

struct TextBlock {
  int64_t file = 0;
  InputFormat format = InputFormat::jsonl;
  std::string bytes;
  int64_t first_line = 1;
  uint64_t oversized = 0;             // not 0: instead of bytes, one document of this size was passed over
  // Parquet only (lines are cut by the worker): for each row kept its number from 1, and for each of its keys where the value ends in
  // `bytes`.
  std::vector<int64_t> rows;
  std::vector<uint64_t> ends;
  std::vector<std::pair<int64_t, std::string>> bad_rows;  // number, and why it was left out
  InputPlace next;                    // behind this block
  uint64_t text_bytes = 0;            // of input, decompressed
  uint64_t compressed_total = 0;      // bytes of all input files consumed at the end of this block
};

struct BlockOptions {
  std::vector<InputFile> files;
  PreprocessOptions preprocess;
  size_t block_bytes = size_t{1} << 20;
  std::function<bool()> may_fetch;  // asked before a file is downloaded; false ends the input. Empty: always
};

class TextBlockReader {
 public:
  TextBlockReader(BlockOptions options, InputPlace start);
  ~TextBlockReader();
  bool next(TextBlock& block);

 private:
  bool next_in_file(TextBlock& block);
  bool whole_file(TextBlock& block);
  bool next_rows(TextBlock& block);
  BlockOptions options_;
  InputPlace place_;
  uint64_t finished_bytes_ = 0;  // compressed, of the files before this one
  InputFormat format_ = InputFormat::jsonl;
  std::unique_ptr<LineReader> lines_;
  std::unique_ptr<ParquetColumns> columns_;
};

std::string too_long(uint64_t bytes, uint64_t limit);  // the message about it

}  // namespace ponte
