// Live weights to files: the counterpart of weight_source.h. A rank states what it holds (rule, slice, type) and hands over bytes when asked; the
// files come out as Megatron or Hugging Face write them, whatever the layout was.
#pragma once
#include <cstddef>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "config/model_config.h"
#include "families/rule.h"
#include "layout/placement.h"

namespace ponte {

// One live shard to be written. `bytes` returns the local data (slice.shape, row-major, dtype); it is called once, from any thread, and the span must
// stay valid until save returns.
struct LiveShard {
  std::string prefix;      // "" for weights; "optimizer.state.exp_avg." and the like for model-shaped optimizer state
  const Rule* rule = nullptr;
  Slice slice;
  DType dtype = DType::f32;
  std::function<std::span<const std::byte>()> bytes;
};

// Any further DCP item of a checkpoint: `content` is the torch.save archive stored under `key` (its shard suffix included).
struct LiveObject {
  std::string key, content;
};

// Writes a torch_dist checkpoint (the .distcp data, .metadata, the manifest of content hashes) into the existing folder `directory`.
void save_torch_dist(const std::filesystem::path& directory, const ModelConfig& config, const RuleTable& table, const std::vector<LiveShard>& shards,
                     const std::vector<LiveObject>& objects);

// The same by several ranks: each writes its shards and objects into its own .distcp files; what they return, one of them joins. Each element of the
// model is in one rank's shards. The `_extra_state` objects of `table` are rank 0's.
struct SavedPart {
  std::string metadata, manifest;
};
enum class SaveThreads { one, all };  // one, beside others' work: without a progress bar
SavedPart save_torch_dist_part(const std::filesystem::path& directory, int64_t rank, const ModelConfig& config, const RuleTable& table,
                               const std::vector<LiveShard>& shards, const std::vector<LiveObject>& objects, SaveThreads threads = SaveThreads::all);
// UserError when the parts leave a hole or overlap.
void join_torch_dist_parts(const std::filesystem::path& directory, const std::vector<SavedPart>& parts);

// Writes an HF safetensors checkpoint (weights and config.json) from whole parameters held by this rank. Files of at most `max_shard_bytes`.
void save_hf(const std::filesystem::path& directory, const ModelConfig& config, const RuleTable& table, const std::vector<LiveShard>& shards,
             int64_t max_shard_bytes);

}  // namespace ponte
