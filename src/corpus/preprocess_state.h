// What a preprocessing run leaves behind so that the next one can go on: a folder beside the output with the ids written so far and, at
// every shard's end, a small file saying which input they stand for.
#pragma once
#include <optional>
#include <vector>

#include "base/json.h"
#include "corpus/text_blocks.h"
#include "format/indexed_dataset.h"

namespace ponte {

struct PreprocessState {
  InputPlace place;                 // everything before it is in the parts
  int64_t documents = 0, skipped = 0, blank = 0;
  uint64_t text_bytes = 0, compressed_total = 0;
  bool finished = false;            // the pairs are whole and only have to be moved into place
  std::vector<IndexedDatasetWriter::Position> parts;  // [key x partitions + partition]
};

// state.json as an object; UserError naming `origin` when it is not what save() writes.
PreprocessState preprocess_state_from(const Json& json, const std::string& origin);

// The folder, held by this process alone.
class PreprocessFolder {
 public:
  // UserError when another run of ours is writing the same prefix.
  PreprocessFolder(const fs::path& prefix);
  ~PreprocessFolder();
  PreprocessFolder(const PreprocessFolder&) = delete;
  const fs::path& path() const { return path_; }
  fs::path part(size_t number) const { return path_ / ("part" + std::to_string(number)); }

  // What an earlier run of the same identity (inputs, tokenizer, flags) left; nullopt when there is none, or it was another job's and is
  // cleared.
  std::optional<PreprocessState> load(const std::string& identity);
  void save(const std::string& identity, const PreprocessState& state) const;
  void remove();

 private:
  void clear() const;
  fs::path path_;
  int lock_ = -1;
};

}  // namespace ponte
