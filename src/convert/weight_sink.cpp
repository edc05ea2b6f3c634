#include "convert/weight_sink.h"

#include <nlohmann/json.hpp>

#include "base/checked.h"
#include "base/errors.h"
#include "base/hash.h"
#include "convert/hf_writer.h"
#include "convert/native_config.h"
#include "families/registry.h"

namespace ponte {
namespace {

struct LiveBuffer {
  SourceBuffer source;
  std::shared_ptr<const void> owner;
};
LiveBuffer live_buffer(const LiveShard& shard) {
  const std::string name = shard.prefix + shard.rule->name();
  const LiveBytes live = shard.bytes();
  const int64_t wanted = checked_multiply(checked_numel(shard.slice.shape, name), dtype_bytes(shard.dtype), name);
  require(static_cast<int64_t>(live.bytes.size()) == wanted, "{}: {} bytes in memory for shape {} of {}", name, live.bytes.size(), shard.slice.shape,
          torch_name(shard.dtype));
  return {{name, shard.dtype, live.bytes}, live.owner};
}

constexpr int64_t kCopiedBytes = 1 << 29;  // of copied shards in host memory at a time, or one shard where that is larger

// One past the last shard that is written together with `first`: those that lie in host memory, and a bounded amount of copies.
size_t end_of_stretch(const std::vector<LiveShard>& shards, size_t first) {
  int64_t copied = 0;
  size_t end = first;
  for (; end < shards.size(); ++end) {
    const LiveShard& shard = shards[end];
    if (!shard.copied) continue;
    copied += checked_multiply(checked_numel(shard.slice.shape, shard.rule->name()), dtype_bytes(shard.dtype), shard.rule->name());
    if (end > first && copied > kCopiedBytes) break;
  }
  return end;
}

// One stored chunk of a live shard.
struct LiveChunk {
  TensorSpec spec;
  Shape offsets, sizes;
  size_t shard = 0;
  Target target;
};

void append_chunks(const LiveShard& shard, int64_t buffer, Dialect dialect, std::vector<LiveChunk>& out) {
  const Rule& rule = *shard.rule;
  for (size_t s = 0; s < rule.segments.size(); ++s) {
    const StoredSegment stored = stored_segment(rule, s, dialect);
    const std::vector<Window> windows = slice_windows(rule, shard.slice, s);
    for (size_t i = 0; i < windows.size(); ++i) {
      const Window& window = windows[i];
      if (shard.slice.segments[s].intervals[i].first_sharer != shard.slice.rank || window.elements() == 0) continue;
      const std::string key = prefixed_key(shard.prefix, stored.key, dialect.container);
      LiveChunk chunk{{key, shard.dtype, stored.shape}, stored.prefix, Shape(stored.prefix.size(), 1),
                      static_cast<size_t>(buffer), {shard.prefix + rule.name(), shard.dtype, window.elements(), {}}};
      for (size_t d = 0; d < window.begin.size(); ++d) {
        chunk.offsets.push_back(window.begin[d] + (d == 0 ? stored.row : 0));
        chunk.sizes.push_back(window.end[d] - window.begin[d]);
      }
      append_copies(window, dense_window(window.begin, window.end), buffer, chunk.target.copies);
      out.push_back(std::move(chunk));
    }
  }
}

// Hashes of the chunks, in their order. Chunks come in the order of their shards.
std::vector<std::string> write_chunks(const std::vector<LiveShard>& shards, const std::vector<LiveChunk>& chunks, const TransferOptions& options,
                                      TorchDistWriter& writer) {
  std::vector<std::string> hashes;
  for (size_t first = 0, chunk = 0; first < shards.size();) {
    const size_t end = end_of_stretch(shards, first), first_chunk = chunk;
    std::vector<LiveBuffer> live(shards.size());  // those of the stretch alone have bytes
    for (size_t i = first; i < end; ++i) live[i] = live_buffer(shards[i]);
    std::vector<SourceBuffer> buffers;
    for (const LiveBuffer& buffer : live) buffers.push_back(buffer.source);
    std::vector<Target> targets;
    for (; chunk < chunks.size() && chunks[chunk].shard < end; ++chunk) targets.push_back(chunks[chunk].target);
    const auto sink = [&](size_t target, uint64_t offset, std::span<const std::byte> block, auto*) { writer.write(first_chunk + target, offset, block); };
    for (std::string& hash : run_transfer(buffers, targets, sink, options)) hashes.push_back(std::move(hash));
    first = end;
  }
  return hashes;
}

// A chunk of the manifest, written.
void append_chunk(const TensorSpec& spec, const Shape& offsets, const Shape& sizes, const std::string& hash, Manifest& out) {
  ManifestTensor& tensor = out.tensors[spec.name];
  tensor.dtype = spec.dtype;
  tensor.shape = spec.shape;
  tensor.chunks.push_back({offsets, sizes, hash});
}

}  // namespace

SavedPart save_native_part(const fs::path& directory, int64_t rank, const ModelConfig& config, const RuleTable& table, const std::vector<LiveShard>& shards,
                           const NativeExtras& extras, Container container, const TransferOptions& options) {
  const bool torch_dist = container == Container::torch_dist;
  const Dialect dialect = torch_dist ? dialect_of(table) : Dialect{Container::fsdp_dtensor, LayerKeys::numbered};
  std::vector<LiveChunk> chunks;
  for (size_t i = 0; i < shards.size(); ++i) append_chunks(shards[i], static_cast<int64_t>(i), dialect, chunks);
  TorchDistWriter writer(directory, {.rank = rank});
  for (const LiveChunk& chunk : chunks) writer.add_chunk(chunk.spec, chunk.offsets, chunk.sizes);
  for (const NativeTensor& tensor : extras.tensors) writer.add_tensor(tensor.spec);
  if (rank == 0 && torch_dist)
    for (const ExtraState& module : table.extra_state) writer.add_object(extra_state_key(module, dialect), empty_extra_state());
  for (const auto& [key, value] : extras.objects) writer.add_object(key, value);
  writer.begin();
  const std::vector<std::string> hashes = write_chunks(shards, chunks, options, writer);
  Manifest manifest;
  manifest.architecture = config.hf_architecture;
  for (size_t i = 0; i < chunks.size(); ++i) append_chunk(chunks[i].spec, chunks[i].offsets, chunks[i].sizes, hashes[i], manifest);
  for (size_t i = 0; i < extras.tensors.size(); ++i) {
    const auto& [spec, text] = extras.tensors[i];
    const std::span<const std::byte> bytes = std::as_bytes(std::span(text.data(), text.size()));
    writer.write(chunks.size() + i, 0, bytes);
    append_chunk(spec, Shape(spec.shape.size(), 0), spec.shape, content_hash(bytes), manifest);
  }
  return {writer.finish_rank(), manifest_text(manifest)};
}

Manifest join_native_parts(const fs::path& directory, const std::vector<SavedPart>& parts) {
  PONTE_ASSERT(!parts.empty());
  std::vector<std::string> metadata;
  Manifest manifest = parse_manifest(parts[0].manifest, "part of the manifest");
  for (size_t i = 0; i < parts.size(); ++i) {
    metadata.push_back(parts[i].metadata);
    if (i == 0) continue;
    for (auto& [name, tensor] : parse_manifest(parts[i].manifest, "part of the manifest").tensors) {
      const auto [known, added] = manifest.tensors.emplace(name, tensor);
      if (!added) known->second.chunks.insert(known->second.chunks.end(), tensor.chunks.begin(), tensor.chunks.end());
    }
  }
  write_dist_metadata(directory, metadata);
  return manifest;
}

void save_torch_dist(const fs::path& directory, const ModelConfig& config, const RuleTable& table, const std::vector<LiveShard>& shards,
                     const NativeExtras& extras) {
  const SavedPart whole = save_native_part(directory, 0, config, table, shards, extras, Container::torch_dist, {0, "checkpoint"});
  write_native_manifest(directory, join_native_parts(directory, {whole}));
}

void save_hf(const fs::path& directory, const ModelConfig& config, const RuleTable& table, const std::vector<LiveShard>& shards, int64_t max_shard_bytes) {
  std::vector<std::vector<std::vector<SegmentChunk>>> chunks(table.rules.size());
  std::vector<DType> dtypes(table.rules.size(), DType::f32);
  std::map<std::string, size_t> numbers;
  for (size_t r = 0; r < table.rules.size(); ++r) {
    numbers.emplace(table.rules[r].name(), r);
    chunks[r].resize(table.rules[r].segments.size());
  }
  for (size_t i = 0; i < shards.size(); ++i) {
    const auto it = numbers.find(shards[i].rule->name());
    require(it != numbers.end() && shards[i].prefix.empty(), "{}{}: no weight of this model", shards[i].prefix, shards[i].rule->name());
    dtypes[it->second] = shards[i].dtype;
    for (size_t s = 0; s < chunks[it->second].size(); ++s)
      for (const Window& window : slice_windows(table.rules[it->second], shards[i].slice, s))
        chunks[it->second][s].push_back({static_cast<int64_t>(i), window});
  }
  std::vector<LiveBuffer> live;
  for (const LiveShard& shard : shards) live.push_back(live_buffer(shard));
  std::vector<SourceBuffer> buffers;
  for (const LiveBuffer& buffer : live) buffers.push_back(buffer.source);
  const NativePieces pieces{table, buffers, [&](size_t rule, size_t segment) { return std::span<const SegmentChunk>(chunks[rule][segment]); },
                            [&](size_t rule) { return dtypes[rule]; }, [&](size_t rule) { return -native_offset(table.rules[rule]); }};
  HfWriteOptions options;
  options.max_shard_bytes = static_cast<uint64_t>(max_shard_bytes);
  options.label = "save safetensors";
  Manifest manifest = write_hf_weights(pieces, directory, options);
  manifest.architecture = config.hf_architecture;
  ModelConfig written = config;
  written.params_dtype = dtypes.empty() ? config.params_dtype : dtypes[0];
  write_file_atomically(directory / "config.json", dump_json(hf_config_from_model(written)));
  write_file_atomically(directory / kHfManifest, manifest_text(manifest));
}

}  // namespace ponte
