// Live weights to files: the counterpart of weight_source.h. A rank states what it holds (rule, slice, type) and hands over bytes when asked; the
// files come out as Megatron or Hugging Face write them, whatever the layout was.
#pragma once
#include <cstddef>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "config/model_config.h"
#include "convert/native_writer.h"
#include "layout/placement.h"

namespace ponte {

// A shard's data in host memory. Where they were copied there for the occasion, `owner` holds them and is let go when they are written; else they stay
// valid until save returns.
struct LiveBytes {
  LiveBytes(std::span<const std::byte> data, std::shared_ptr<const void> held = nullptr) : bytes(data), owner(std::move(held)) {}
  std::span<const std::byte> bytes;
  std::shared_ptr<const void> owner;
};

// One live shard to be written. `bytes` returns the local data (slice.shape, row-major, dtype); it is called once, from any thread.
struct LiveShard {
  std::string prefix;      // "" for weights; "optimizer.state.exp_avg." and the like for model-shaped optimizer state
  const Rule* rule = nullptr;
  Slice slice;
  DType dtype = DType::f32;
  std::function<LiveBytes()> bytes;
  bool copied = false;     // bytes() copies (from a device): few such shards are in host memory at a time
};

// Writes a torch_dist checkpoint (the .distcp data, .metadata, the manifest) into the existing folder `directory`. extras: what else lies
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
// Writes .metadata. UserError when the parts leave a hole or overlap. The manifest is for write_native_manifest, when everything else is there.
Manifest join_native_parts(const std::filesystem::path& directory, const std::vector<SavedPart>& parts);

// Writes an HF safetensors checkpoint (weights and config.json) from whole parameters held by this rank. Files of at most `max_shard_bytes`.
void save_hf(const std::filesystem::path& directory, const ModelConfig& config, const RuleTable& table, const std::vector<LiveShard>& shards,
             int64_t max_shard_bytes);

}  // namespace ponte
