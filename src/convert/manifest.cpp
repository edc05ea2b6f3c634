#include "convert/manifest.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/errors.h"
#include "base/hash.h"
#include "convert/native_config.h"

namespace ponte {
namespace {

constexpr const char* kHashedFiles[] = {".metadata", "common.pt", "train_state.pt", "ponte/exact_values.safetensors", "ponte/hf_tensors.json",
                                        "ponte/run.json"};
constexpr const char* kKeys[] = {"ponte_manifest", "architecture", "casts", "dropped", "absent", "files", "tensors", "xxh3_128"};
constexpr std::string_view kOwnHash = ",\n \"xxh3_128\": \"";  // of all the text before it; the last entry

std::string read_hash(const Json& value, const std::string& origin) {
  require(value.is_string() && value.get_ref<const std::string&>().find_first_not_of("0123456789abcdef") == std::string::npos,
          "{}: {} is not a hash in hexadecimal", origin, value.dump());
  return value.get<std::string>();
}

Shape read_shape(const Json& value, const std::string& origin) {
  require(value.is_array(), "{}: a shape is not a list", origin);
  Shape out;
  for (const Json& extent : value) {
    require(extent.is_number_integer(), "{}: a shape holds {}", origin, extent.dump());
    out.push_back(extent.get<int64_t>());
  }
  return out;
}

ManifestTensor read_tensor(const Json& value, const std::string& origin) {
  ManifestTensor tensor;
  tensor.dtype = dtype_from_safetensors(json_get<std::string>(value, "dtype", origin));
  require(value.contains("shape") && value.contains("chunks") && value["chunks"].is_array(), "{}: shape or chunks missing", origin);
  tensor.shape = read_shape(value["shape"], origin);
  for (const Json& chunk : value["chunks"]) {
    require(chunk.is_object() && chunk.contains("offsets") && chunk.contains("sizes"), "{}: a chunk without offsets or sizes", origin);
    require(chunk.contains("xxh3_128"), "{}: a chunk without a hash", origin);
    const std::string hash = read_hash(chunk["xxh3_128"], origin);
    tensor.chunks.push_back({read_shape(chunk["offsets"], origin), read_shape(chunk["sizes"], origin), hash});
  }
  return tensor;
}

// Before anything in it is believed. Manifests of before have no hash of themselves.
void check_own_hash(std::string_view text, const Json& document, const std::string& origin) {
  if (!document.contains("xxh3_128")) return;
  const std::string hash = read_hash(document["xxh3_128"], origin);
  const std::string_view body = text.substr(0, text.rfind(kOwnHash));
  require(content_hash(std::as_bytes(std::span(body))) == hash, "{}: it is damaged: its content is not what was written", origin);
}

}  // namespace

// One line per chunk: a manifest of a large mixture of experts stays readable and small.
std::string manifest_text(const Manifest& manifest) {
  Json head = {{"ponte_manifest", 1},
               {"architecture", manifest.architecture},
               {"casts", manifest.casts},
               {"dropped", manifest.dropped},
               {"absent", manifest.absent},
               {"files", manifest.files}};
  std::string out = "{";
  for (const auto& [key, value] : head.items()) out += format("\"{}\": {},\n ", key, value.dump());
  out += "\"tensors\": {";
  const char* separator = "\n";
  for (const auto& [name, tensor] : manifest.tensors) {
    out += format("{}  {}: {{\"dtype\": \"{}\", \"shape\": {}, \"chunks\": [", separator, Json(name).dump(), safetensors_name(tensor.dtype), tensor.shape);
    separator = ",\n";
    const char* comma = "\n";
    for (const ManifestChunk& chunk : tensor.chunks) {
      out += format("{}    {{\"offsets\": {}, \"sizes\": {}, \"xxh3_128\": \"{}\"}}", comma, chunk.offsets, chunk.sizes, chunk.hash);
      comma = ",\n";
    }
    out += "]}";
  }
  out += "}";
  return format("{}{}{}\"}}\n", out, kOwnHash, content_hash(std::as_bytes(std::span(out))));
}

Manifest read_manifest(const fs::path& file) { return parse_manifest(read_file(file), file.string()); }

Manifest parse_manifest(std::string_view text, const std::string& origin) {
  const Json document = parse_json(text, origin);
  require(json_get<int64_t>(document, "ponte_manifest", origin) == 1, "{}: a manifest of another version", origin);
  check_own_hash(text, document, origin);
  for (const auto& [key, value] : document.items())
    require(std::ranges::find(kKeys, key) != std::end(kKeys), "{}: '{}' is no key of a manifest", origin, key);
  Manifest out;
  out.architecture = json_get<std::string>(document, "architecture", origin);
  require(document.contains("tensors") && document["tensors"].is_object(), "{}: 'tensors' is missing", origin);
  for (const auto& [name, value] : document["tensors"].items()) out.tensors.emplace(name, read_tensor(value, origin + ": " + name));
  if (document.contains("files")) {
    for (const auto& [name, value] : document["files"].items()) {
      require(!name.starts_with('/') && name.find("..") == std::string::npos, "{}: '{}' is no file of the folder", origin, name);
      out.files.emplace(name, read_hash(value, origin + ": " + name));
    }
  }
  for (auto [key, list] : {std::pair{"casts", &out.casts}, std::pair{"dropped", &out.dropped}, std::pair{"absent", &out.absent}})
    if (document.contains(key) && document[key].is_array())
      for (const Json& line : document[key])
        if (line.is_string()) list->push_back(line.get<std::string>());
  return out;
}

void write_native_manifest(const fs::path& iteration, Manifest manifest) {
  for (const char* name : kHashedFiles)
    if (const fs::path file = iteration / name; fs::exists(file)) manifest.files.emplace(name, content_hash(MappedFile(file).bytes()));
  fs::create_directories(iteration / kKeptFolder);
  write_file_atomically(iteration / kKeptFolder / kNativeManifest, manifest_text(manifest));
}

}  // namespace ponte
