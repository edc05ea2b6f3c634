#include <chrono>
#include <nlohmann/json.hpp>

#include "base/checked.h"
#include "base/errors.h"
#include "convert/convert.h"
#include "convert/hf_files.h"
#include "convert/native_config.h"
#include "convert/native_writer.h"
#include "families/registry.h"

namespace ponte {
namespace {

// The HF tensors of a checkpoint and how each is filled: the rules' boxes read backwards.
struct HfPlan {
  std::vector<Target> targets;
  std::vector<TensorSpec> specs;
  std::vector<std::string> casts;
};

HfPlan plan_hf(const NativeSource& source, std::optional<DType> asked) {
  HfPlan plan;
  std::map<std::string, size_t, std::less<>> number;
  const RuleTable& table = source.rules();
  for (size_t r = 0; r < table.rules.size(); ++r) {
    const Rule& rule = table.rules[r];
    const DType from = source.dtype(rule), to = stored_dtype(rule, from, asked);
    std::vector<size_t> targets;  // of the rule's sources
    for (const Source& hf : rule.sources) {
      const auto [it, fresh] = number.emplace(hf.name, plan.targets.size());
      if (fresh) {
        plan.targets.push_back({hf.name, to, checked_numel(hf.shape, hf.name), {}});
        plan.specs.push_back({hf.name, to, hf.shape});
        if (from != to) plan.casts.push_back(format("{}: {} to {}", hf.name, torch_name(from), torch_name(to)));
      }
      require(plan.specs[it->second].dtype == to, "{}: stored both as {} and {}", hf.name, torch_name(plan.specs[it->second].dtype), torch_name(to));
      targets.push_back(it->second);
    }
    std::vector<Copy> copies;
    for (size_t s = 0; s < rule.segments.size(); ++s)
      for (const SegmentChunk& chunk : source.chunks(r, s))
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

Manifest write_hf_weights(const NativeSource& source, const fs::path& directory, const ExportOptions& options) {
  const HfPlan plan = plan_hf(source, options.torch_dtype);
  OpenShards shards = open_shards(directory, plan, options.max_shard_bytes);
  const auto hashes = run_transfer(source.buffers(), plan.targets,
                                   [&](size_t target, uint64_t offset, std::span<const std::byte> block) {
                                     shards.files[shards.place[target].first].write_at(shards.place[target].second + offset, block);
                                   },
                                   {options.threads, "export"});
  if (!shards.plan.index_json.empty()) write_file_atomically(directory / kSafetensorsIndex, shards.plan.index_json);
  Manifest manifest;
  manifest.architecture = source.config().hf_architecture;
  manifest.casts = plan.casts;
  for (size_t i = 0; i < plan.specs.size(); ++i)
    manifest.tensors[plan.specs[i].name] = {plan.specs[i].dtype, plan.specs[i].shape, {{Shape(plan.specs[i].shape.size(), 0), plan.specs[i].shape, hashes[i]}}};
  return manifest;
}

// The document as it was given when nothing in it changed, so that it survives to the byte.
void write_config(const ModelConfig& model, DType dtype, const fs::path& original, const fs::path& directory) {
  ModelConfig config = model;
  config.params_dtype = dtype;
  const Json document = hf_config_from_model(config);
  const bool untouched = fs::exists(original) && read_json(original) == document;
  write_file_atomically(directory / "config.json", untouched ? read_file(original) : dump_json(document));
}

// Replacing is for folders that are models; anything else is the user's.
void require_replaceable(const fs::path& target) {
  if (!fs::exists(target)) return;
  require(fs::is_directory(target) && (fs::is_empty(target) || fs::exists(target / "config.json")),
          "{} exists and is no Hugging Face model; --overwrite replaces only those", target);
}

bool is_inside(const fs::path& inner, const fs::path& outer) {
  const fs::path relative = fs::weakly_canonical(inner).lexically_relative(fs::weakly_canonical(outer));
  return !relative.empty() && *relative.begin() != "..";
}

}  // namespace

ConversionReport export_checkpoint(const ExportOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  const bool empty = fs::is_directory(options.hf_path) && fs::is_empty(options.hf_path);
  const bool replace = options.existing == StagedDirectory::Existing::replace || empty;
  require(replace || !fs::exists(options.hf_path), "{} already exists: give another path, or --overwrite to replace it", options.hf_path);
  if (replace) require_replaceable(options.hf_path);
  require(!is_inside(options.megatron_path, options.hf_path), "{} holds the checkpoint {}; give another --hf-path", options.hf_path, options.megatron_path);

  std::optional<ModelConfig> given;
  if (options.hf_model) {
    require(!is_inside(*options.hf_model, options.hf_path), "{} holds --hf-model {}; give another --hf-path", options.hf_path, *options.hf_model);
    given = model_config_from_hf(*options.hf_model / "config.json");
  }
  const NativeSource source(options.megatron_path, given ? &*given : nullptr);
  const fs::path& from = options.hf_model ? *options.hf_model : source.iteration_directory();

  StagedDirectory staged(options.hf_path, replace ? StagedDirectory::Existing::replace : StagedDirectory::Existing::refuse);
  const Manifest manifest = write_hf_weights(source, staged.path(), options);
  restore_hf_files(from, staged.path());
  const Rule& embedding = source.rules().rules[0];
  write_config(source.config(), stored_dtype(embedding, source.dtype(embedding), options.torch_dtype),
               options.hf_model ? *options.hf_model / "config.json" : from / kKeptFolder / "config.json", staged.path());
  write_file_atomically(staged.path() / kHfManifest, manifest_text(manifest));
  staged.publish();

  ConversionReport report;
  report.architecture = manifest.architecture;
  report.tensors = static_cast<int64_t>(manifest.tensors.size());
  for (const auto& [name, tensor] : manifest.tensors) report.bytes += static_cast<uint64_t>(tensor_bytes({name, tensor.dtype, tensor.shape}));
  report.casts = manifest.casts;
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

}  // namespace ponte
