// The worker's part of preprocessing: one block of input to token ids in their final width.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "corpus/json_text.h"
#include "corpus/text_blocks.h"
#include "text/tokenizer.h"

namespace ponte {

// The documents of one key. lengths: one per sequence; a text that gives no tokens is no sequence, but its document stays, as in Megatron.
struct EncodedDocuments {
  std::vector<std::byte> ids;
  std::vector<int32_t> lengths;
  std::vector<int32_t> sequences_per_document;
};

struct LineProblem {
  int64_t line = 0;
  std::string what;
};

struct EncodedBlock {
  std::vector<EncodedDocuments> keys;
  std::vector<LineProblem> problems;  // in line order
  int64_t blank = 0;
  int64_t file = 0;
  InputPlace next;
  uint64_t text_bytes = 0, compressed_total = 0;
};

struct EncodeOptions {
  const Tokenizer* tokenizer = nullptr;
  DType dtype = DType::i32;
  AddSpecial add_special = AddSpecial::yes;
  int32_t eod_id = -1;  // -1: none is appended
  PreprocessOptions preprocess;
};

// Used by one thread; any number may share the tokenizer.
class BlockEncoder {
 public:
  explicit BlockEncoder(EncodeOptions options);
  EncodedBlock encode(TextBlock& block);

 private:
  void encode_lines(std::string_view text, const TextBlock& block, EncodedBlock& out);
  void encode_plain(std::string_view text, int64_t line, EncodedBlock& out);
  void encode_rows(const TextBlock& block, EncodedBlock& out);
  template <class TextsOf>
  void append_document(int64_t line, EncodedBlock& out, TextsOf&& texts_of);
  std::optional<std::string> append(const std::vector<std::string_view>& texts, EncodedDocuments& out);
  EncodeOptions options_;
  JsonTextReader json_;
  std::vector<int32_t> ids_, lengths_;
};

}  // namespace ponte
