#include "convert/hf_writer.h"

#include "base/checked.h"
#include "base/errors.h"
#include "convert/native_writer.h"
#include "convert/write_queue.h"

namespace ponte {
namespace {

// The HF tensors of a checkpoint and how each is filled: the rules' boxes read backwards.
struct HfPlan {
  std::vector<Target> targets;
  std::vector<TensorSpec> specs;
  std::vector<std::string> casts;
};

// Whether every element of a parameter, shifted to be HF's, can be told from it in that type.
bool shifts_exactly(const NativePieces& pieces, size_t r, DType type) {
  const Rule& rule = pieces.table.rules[r];
  for (size_t s = 0; s < rule.segments.size(); ++s)
    for (const SegmentChunk& chunk : pieces.chunks(r, s)) {
      const Window window = dense_window(chunk.window.begin, chunk.window.end);
      Target target{rule.name(), type, window.elements(), {}, pieces.shift(r)};
      append_copies(chunk.window, window, chunk.buffer, target.copies);
      if (!inverts(pieces.buffers, target, pieces.dtype(r))) return false;
    }
  return true;
}

// A norm with an offset goes back to the type it had where that was kept, else to that of the other weights, or to fp32 where that would lose digits.
DType hf_dtype(const NativePieces& pieces, size_t r, std::optional<DType> asked) {
  const size_t next = r + 1 < pieces.table.rules.size() ? r + 1 : r;  // a delta net's output projection follows its norm
  const DType stored = pieces.dtype(r), others = pieces.dtype(next);
  if (const auto exact = pieces.exact.find(r); !asked && exact != pieces.exact.end()) return pieces.buffers[static_cast<size_t>(exact->second)].dtype;
  if (asked || pieces.shift(r) == 0) return stored_dtype(pieces.table.rules[r], stored, asked);
  return shifts_exactly(pieces, r, others) ? others : DType::f32;
}

HfPlan plan_hf(const NativePieces& pieces, std::optional<DType> asked) {
  HfPlan plan;
  std::map<std::string, size_t, std::less<>> number;
  const RuleTable& table = pieces.table;
  for (size_t r = 0; r < table.rules.size(); ++r) {
    const Rule& rule = table.rules[r];
    const DType from = pieces.dtype(r), to = hf_dtype(pieces, r, asked);
    std::vector<size_t> targets;  // of the rule's sources
    for (const Source& hf : rule.sources) {
      const auto [it, fresh] = number.emplace(hf.name, plan.targets.size());
      if (fresh) {
        plan.targets.push_back({hf.name, to, checked_numel(hf.shape, hf.name), {}, pieces.shift(r)});
        plan.specs.push_back({hf.name, to, hf.shape});
        if (from != to) plan.casts.push_back(format("{}: {} to {}", hf.name, torch_name(from), torch_name(to)));
      }
      require(plan.specs[it->second].dtype == to, "{}: stored both as {} and {}", hf.name, torch_name(plan.specs[it->second].dtype), torch_name(to));
      targets.push_back(it->second);
    }
    if (const auto exact = pieces.exact.find(r); exact != pieces.exact.end() && pieces.buffers[static_cast<size_t>(exact->second)].dtype == to) {
      Target& target = plan.targets[targets[0]];
      target.add = 0;
      target.copies = {{exact->second, 0, 0, {{target.elements, 1, 1}}}};
      continue;
    }
    std::vector<Copy> copies;
    for (size_t s = 0; s < rule.segments.size(); ++s)
      for (const SegmentChunk& chunk : pieces.chunks(r, s))
        for (const Box& box : rule.segments[s].boxes) {
          copies.clear();
          append_copies(box, chunk.window, copies);
          for (const Copy& copy : copies) plan.targets[targets[box.source]].copies.push_back(reversed(copy, chunk.buffer));
        }
  }
  return plan;
}

struct OpenShards {
  HfShardPlan plan;
  std::vector<OutputFile> files;
  std::vector<std::pair<size_t, uint64_t>> place;  // of each tensor: file, offset
};

OpenShards open_shards(const fs::path& directory, const HfPlan& plan, uint64_t max_shard_bytes) {
  OpenShards out;
  out.plan = plan_hf_shards(plan.specs, max_shard_bytes);
  out.place.resize(plan.specs.size());
  for (size_t f = 0; f < out.plan.shards.size(); ++f) {
    const HfShard& shard = out.plan.shards[f];
    out.files.emplace_back(directory / shard.file);
    out.files.back().preallocate(shard.plan.file_bytes);
    out.files.back().write_at(0, std::as_bytes(std::span(shard.plan.header.data(), shard.plan.header.size())));
    for (size_t i = 0; i < shard.tensors.size(); ++i) out.place[shard.tensors[i]] = {f, shard.plan.offsets[i]};
  }
  return out;
}

}  // namespace

Manifest write_hf_weights(const NativePieces& pieces, const fs::path& directory, const HfWriteOptions& options) {
  const HfPlan plan = plan_hf(pieces, options.asked);
  OpenShards shards = open_shards(directory, plan, options.max_shard_bytes);
  WriteQueue queue;
  const auto write = [&](size_t target, uint64_t offset, std::span<const std::byte> block, std::vector<std::byte>* owner) {
    const auto& [file, start] = shards.place[target];
    queue.write(shards.files[file], start + offset, block, owner);
  };
  const auto hashes = run_transfer(pieces.buffers, plan.targets, write, {options.threads, options.label});
  queue.finish();
  if (!shards.plan.index_json.empty()) write_file_atomically(directory / kSafetensorsIndex, shards.plan.index_json);
  Manifest manifest;
  manifest.casts = plan.casts;
  for (size_t i = 0; i < plan.specs.size(); ++i)
    manifest.tensors[plan.specs[i].name] = {plan.specs[i].dtype, plan.specs[i].shape, {{Shape(plan.specs[i].shape.size(), 0), plan.specs[i].shape, hashes[i]}}};
  return manifest;
}

}  // namespace ponte
