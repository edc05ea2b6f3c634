// What people ask of a tokenised corpus: what is in it, and one corpus out of several.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/file.h"

namespace ponte {

struct InspectOptions {
  std::vector<int64_t> documents;  // to show; none: the first
  int64_t max_tokens = 200;        // of each
};

// A screen of text: sizes, a histogram of sequence lengths, documents as ids or, with a tokenizer, as text with token borders in
// alternating colours (on a terminal). `tokenizer`: folder or hub id, "" for ids only.
std::string inspect_dataset(const fs::path& prefix, const std::string& tokenizer, const InspectOptions& options);

enum class OnExisting { refuse, replace };
// Joins datasets in the order given (a folder stands for its pairs in name order); dtypes must agree. Returns a one-line summary.
std::string merge_datasets(const std::vector<fs::path>& inputs, const fs::path& output, OnExisting existing);

}  // namespace ponte
