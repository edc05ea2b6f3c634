// Stored bytes against the content hashes written with them: finds a changed or damaged checkpoint without its source.
#pragma once
#include <map>
#include <mutex>
#include <string>

#include "convert/segment_source.h"

namespace ponte {

// What was found wrong, by tensor; filled from several threads.
class Differences {
 public:
  void add(const std::string& name, const std::string& text);  // the first of a tensor is kept
  // UserError "<headline>: <n> tensors differ" and a list, when there are any.
  void settle(const std::string& headline) const;

 private:
  std::mutex mutex_;
  std::map<std::string, std::string> found_;
};

void check_native_manifest(const NativeSource& source, const fs::path& manifest, int64_t threads);
// Against the folder's ponte_manifest.json; without one there is nothing to check.
void check_hf_manifest(const HfCheckpoint& checkpoint, int64_t threads);

}  // namespace ponte
