// Ponte's own record of what it wrote: per tensor its type, shape and content hashes (XXH3-128 of the row-major bytes of each chunk), the hashes of the small
// files beside them, and what was cast or left out. <iteration>/ponte/manifest.json in a Megatron checkpoint, ponte_manifest.json in an HF folder.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "base/file.h"
#include "base/json.h"
#include "families/rule.h"

namespace ponte {

struct ManifestChunk {
  Shape offsets, sizes;
  std::string hash;
};

struct ManifestTensor {
  DType dtype = DType::f32;
  Shape shape;
  std::vector<ManifestChunk> chunks;
};

struct Manifest {
  std::string architecture;
  std::map<std::string, ManifestTensor> tensors;
  std::map<std::string, std::string> files;  // hashes by path in the folder; none in manifests of before
  std::vector<std::string> casts, dropped;  // "lm_head.weight: equal to model.embed_tokens.weight (tied)"
  std::vector<std::string> absent;  // of an export: what the HF model has and this model by its configuration has not
};

std::string manifest_text(const Manifest& manifest);
// UserError naming `origin` when the text is no manifest of ours.
Manifest parse_manifest(std::string_view text, const std::string& origin);
Manifest read_manifest(const fs::path& file);

// Into a complete iteration's folder, with the hashes of its files that no one edits: .metadata, the states, what Ponte keeps. Texts that people edit
// (run_config.yaml, config.json, the tokenizer's) have none.
void write_native_manifest(const fs::path& iteration, Manifest manifest);

inline constexpr const char* kHfManifest = "ponte_manifest.json";
inline constexpr const char* kNativeManifest = "manifest.json";  // inside kKeptFolder

}  // namespace ponte
