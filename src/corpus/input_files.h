// The files a preprocessing run reads: those a user names, and those a dataset of the hub consists of, fetched one by one when their turn
// comes.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/file.h"
#include "corpus/preprocess.h"

namespace ponte {

struct InputFile {
  fs::path path;
  uint64_t size = 0;             // bytes as stored (compressed)
  std::string identity;          // changes when the content does
  std::function<void()> fetch;   // brings the file to `path`; empty when it is there
};

// Patterns and folders expanded, each in name order; hub ids (org/name) by their card's list of files. UserError for what matches nothing.
std::vector<InputFile> input_files(const PreprocessOptions& options);

// Files of a dataset, chosen as the `datasets` library chooses them for load_dataset(id, subset, split="train"): by the patterns its card
// (README.md) lists under that subset, else everything in a known format. `names` are relative to the repository. UserError lists the
// subsets there are.
std::vector<std::string> dataset_files(const std::string& id, const std::string& card, const std::vector<std::string>& names,
                                       const std::string& subset);

// Hub patterns: * and ? stay inside a folder, ** goes through folders.
bool matches_pattern(std::string_view pattern, std::string_view name);

}  // namespace ponte
