// The weights of a Hugging Face folder as one name space: model.safetensors, or shards named by model.safetensors.index.json, or several
// *.safetensors without an index. Source: transformers' save_pretrained and huggingface_hub's split_torch_state_dict_into_shards.
#pragma once
#include <memory>

#include "format/safetensors.h"

namespace ponte {

struct HfTensor {
  std::string name;
  DType dtype = DType::f32;
  std::vector<int64_t> shape;
  size_t file = 0;      // index into files()
  uint64_t offset = 0;  // of the first byte, from the start of that file
  std::span<const std::byte> bytes;
};

// Opening is strict: a shard of the index that is missing, a name of the index its shard lacks, a name in a shard that the index lacks, the same
// name in two files, an index entry that leaves the folder: UserErrors naming file and tensor.
class HfCheckpoint {
 public:
  explicit HfCheckpoint(const fs::path& directory);
  const std::vector<HfTensor>& tensors() const { return tensors_; }  // sorted by name
  const HfTensor* find(std::string_view name) const;                 // nullptr when absent
  const HfTensor& at(std::string_view name) const;                   // UserError with the nearest name
  const fs::path& directory() const { return directory_; }
  size_t files() const { return files_.size(); }
  const SafetensorsFile& file(size_t index) const { return *files_[index]; }
  uint64_t total_bytes() const { return total_bytes_; }

 private:
  fs::path directory_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::vector<HfTensor> tensors_;
  uint64_t total_bytes_ = 0;
};

// How a set of tensors is cut into files: consecutive tensors, each shard at most max_shard_bytes unless one tensor alone is larger.
struct HfShard {
  std::string file;               // model.safetensors, or model-00001-of-00003.safetensors
  std::vector<size_t> tensors;    // indices of the given tensors
  SafetensorsPlan plan;           // offsets follow `tensors`
};
struct HfShardPlan {
  std::vector<HfShard> shards;
  std::string index_json;  // content of model.safetensors.index.json; empty when there is one shard
  uint64_t total_bytes = 0;
};
HfShardPlan plan_hf_shards(std::span<const TensorSpec> tensors, uint64_t max_shard_bytes, const StringPairs& metadata = {{"format", "pt"}});

// "5GB", "300MB", "2GiB" (powers of 1000, and of 1024 with an i), or plain bytes. UserError for anything else.
uint64_t parse_size(std::string_view text);

constexpr const char* kSafetensorsIndex = "model.safetensors.index.json";

}  // namespace ponte
