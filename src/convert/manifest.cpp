#include "convert/manifest.h"

#include <nlohmann/json.hpp>

#include "base/errors.h"

namespace ponte {
namespace {

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
    const std::string hash = json_get<std::string>(chunk, "xxh3_128", origin);
    require(hash.find_first_not_of("0123456789abcdef") == std::string::npos, "{}: '{}' is not a hash in hexadecimal", origin, hash);
    tensor.chunks.push_back({read_shape(chunk["offsets"], origin), read_shape(chunk["sizes"], origin), hash});
  }
  return tensor;
}

}  // namespace

// One line per chunk: a manifest of a large mixture of experts stays readable and small.
std::string manifest_text(const Manifest& manifest) {
  Json head = {{"ponte_manifest", 1},
               {"architecture", manifest.architecture},
               {"casts", manifest.casts},
               {"dropped", manifest.dropped},
               {"absent", manifest.absent}};
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
  return out + "}}\n";
}

Manifest read_manifest(const fs::path& file) { return parse_manifest(read_file(file), file.string()); }

Manifest parse_manifest(std::string_view text, const std::string& origin) {
  const Json document = parse_json(text, origin);
  require(json_get<int64_t>(document, "ponte_manifest", origin) == 1, "{}: a manifest of another version", origin);
  Manifest out;
  out.architecture = json_get<std::string>(document, "architecture", origin);
  require(document.contains("tensors") && document["tensors"].is_object(), "{}: 'tensors' is missing", origin);
  for (const auto& [name, value] : document["tensors"].items()) out.tensors.emplace(name, read_tensor(value, origin + ": " + name));
  for (auto [key, list] : {std::pair{"casts", &out.casts}, std::pair{"dropped", &out.dropped}, std::pair{"absent", &out.absent}})
    if (document.contains(key) && document[key].is_array())
      for (const Json& line : document[key])
        if (line.is_string()) list->push_back(line.get<std::string>());
  return out;
}

}  // namespace ponte
