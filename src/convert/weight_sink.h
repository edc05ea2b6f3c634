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
#include "convert/native_writer.h"
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

// Writes a torch_dist checkpoint (the .distcp data, .metadata, the manifest of content hashes) into the existing folder `directory`. extras: what else lies
// in it.
void save_torch_dist(const std::filesystem::path& directory, const ModelConfig& config, const RuleTable& table, const std::vector<LiveShard>& shards,
                     const NativeExtras& extras);

// The same, or fsdp_dtensor, by several ranks: each writes its shards and extras into its own .distcp files; what they return, one of them joins. Each
// element of the model is in one rank's shards. torch_dist's `_extra_state` objects of `table` are rank 0's.
struct SavedPart {
  std::string metadata, manifest;
};
SavedPart save_native_part(const std::filesystem::path& directory, int64_t rank, const ModelConfig& config, const RuleTable& table,
                           const std::vector<LiveShard>& shards, const NativeExtras& extras, Container container, const TransferOptions& options);
// UserError when the parts leave a hole or overlap.
void join_native_parts(const std::filesystem::path& directory, const std::vector<SavedPart>& parts);

// Writes an HF safetensors checkpoint (weights and config.json) from whole parameters held by this rank. Files of at most `max_shard_bytes`.
void save_hf(const std::filesystem::path& directory, const ModelConfig& config, const RuleTable& table, const std::vector<LiveShard>& shards,
             int64_t max_shard_bytes);

}  // namespace ponte
