// Which files make up a folder, and whether index and shards tell the same story.
#include "format/hf_index.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "base/checked.h"
#include "base/json.h"
#include "format/json_fields.h"

namespace ponte {
namespace {

// Tensor name -> shard file, from model.safetensors.index.json.
std::map<std::string, std::string> read_index(const fs::path& file) {
  const std::string text = read_file(file), origin = file.string();
  simdjson::dom::parser parser;
  JsonObject root, map;
  const auto error = parser.parse(text).get(root);
  require(error == simdjson::SUCCESS, "{}: not a JSON object ({})", file, simdjson::error_message(error));
  bool found = false;
  each_field(root, origin, [&](std::string_view key, const JsonElement& value) {
    if (key == "weight_map") found = value.get(map) == simdjson::SUCCESS;
  });
  require(found, "{}: no 'weight_map' object", file);
  std::map<std::string, std::string> out;
  each_field(map, origin, [&](std::string_view name, const JsonElement& value) {
    std::string_view shard;
    require(value.get(shard) == simdjson::SUCCESS, "{}: weight_map['{}'] is not a file name", file, name);
    require(is_plain_file_name(shard), "{}: weight_map['{}'] is '{}', wanted a plain file name in the same folder", file, name, shard);
    out.emplace(name, shard);
  });
  require(!out.empty(), "{}: weight_map is empty", file);
  return out;
}

std::vector<std::string> safetensors_files(const fs::path& directory) {
  std::vector<std::string> out;
  for (const auto& entry : fs::directory_iterator(directory)) {
    const std::string name = entry.path().filename();
    if (name.ends_with(".safetensors") && name.front() != '.' && !name.starts_with("adapter_")) out.push_back(name);
  }
  std::sort(out.begin(), out.end());
  return out;
}

}  // namespace

HfCheckpoint::HfCheckpoint(const fs::path& directory) : directory_(directory) {
  require(fs::is_directory(directory), "{}: no such folder", directory);
  const fs::path index_file = directory / kSafetensorsIndex;
  std::map<std::string, std::string> index;
  std::vector<std::string> names;
  if (fs::exists(index_file)) {
    index = read_index(index_file);
    std::set<std::string> shards;
    for (const auto& [name, shard] : index) shards.insert(shard);
    names.assign(shards.begin(), shards.end());
    for (const std::string& shard : names) require(fs::exists(directory / shard), "{}: shard {} of the index is missing", directory, shard);
  } else if (fs::exists(directory / "model.safetensors")) {
    names = {"model.safetensors"};
  } else {
    names = safetensors_files(directory);
    require(!names.empty(), "{}: no *.safetensors file; weights in other formats are not read", directory);
  }
  for (const std::string& name : names) {
    const size_t file = files_.size();
    files_.push_back(std::make_unique<SafetensorsFile>(directory / name));
    for (const TensorView& t : files_.back()->tensors()) {
      if (!index.empty()) {
        const auto it = index.find(t.name);
        require(it != index.end(), "{}: '{}' holds tensor '{}', which {} lacks", directory, name, t.name, kSafetensorsIndex);
        require(it->second == name, "{}: tensor '{}' lies in {}, the index says {}", directory, t.name, name, it->second);
      }
      tensors_.push_back({t.name, t.dtype, t.shape, file, t.offset, t.bytes});
      total_bytes_ += t.bytes.size();
    }
  }
  std::sort(tensors_.begin(), tensors_.end(), [](const HfTensor& a, const HfTensor& b) { return a.name < b.name; });
  for (size_t i = 1; i < tensors_.size(); ++i)
    require(tensors_[i].name != tensors_[i - 1].name, "{}: tensor '{}' lies in both {} and {}", directory, tensors_[i].name,
            files_[tensors_[i - 1].file]->path().filename(), files_[tensors_[i].file]->path().filename());
  for (const auto& [name, shard] : index) require(find(name) != nullptr, "{}: the index lists tensor '{}' in {}, which lacks it", directory, name, shard);
}

const HfTensor* HfCheckpoint::find(std::string_view name) const {
  const auto it = std::lower_bound(tensors_.begin(), tensors_.end(), name, [](const HfTensor& t, std::string_view n) { return t.name < n; });
  return it != tensors_.end() && it->name == name ? &*it : nullptr;
}

const HfTensor& HfCheckpoint::at(std::string_view name) const {
  if (const HfTensor* t = find(name)) return *t;
  std::vector<std::string> names;
  for (const HfTensor& t : tensors_) names.push_back(t.name);
  const std::string near = nearest(name, names);
  fail("{}: no tensor '{}'{}", directory_, name, near.empty() ? "" : format("; did you mean '{}'?", near));
}

HfShardPlan plan_hf_shards(std::span<const TensorSpec> tensors, uint64_t max_shard_bytes, const StringPairs& metadata) {
  HfShardPlan out;
  std::vector<std::vector<size_t>> groups(1);
  uint64_t group_bytes = 0;
  int64_t parameters = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const auto bytes = static_cast<uint64_t>(tensor_bytes(tensors[i]));
    if (!groups.back().empty() && group_bytes + bytes > max_shard_bytes) {
      groups.emplace_back();
      group_bytes = 0;
    }
    groups.back().push_back(i);
    group_bytes += bytes;
    out.total_bytes += bytes;
    parameters = checked_add(parameters, checked_numel(tensors[i].shape, tensors[i].name), "parameters");
  }
  std::map<std::string, std::string> weight_map;
  for (size_t g = 0; g < groups.size(); ++g) {
    HfShard shard;
    char name[64];
    std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", g + 1, groups.size());
    shard.file = groups.size() == 1 ? "model.safetensors" : name;
    std::vector<TensorSpec> members;
    for (const size_t i : groups[g]) {
      members.push_back(tensors[i]);
      require(weight_map.emplace(tensors[i].name, shard.file).second, "two tensors named '{}'", tensors[i].name);
    }
    shard.plan = plan_safetensors(members, metadata);
    shard.tensors = std::move(groups[g]);
    out.shards.push_back(std::move(shard));
  }
  if (out.shards.size() > 1) {
    // Built as text: an ordered JSON object would take quadratic time over a large model's names.
    std::string json = "{\n  \"metadata\": {\n    \"total_parameters\": " + std::to_string(parameters) +
                       ",\n    \"total_size\": " + std::to_string(out.total_bytes) + "\n  },\n  \"weight_map\": {";
    for (const char* separator = "\n"; const auto& [name, file] : weight_map) {
      json += separator + std::string("    ") + Json(name).dump() + ": \"" + file + "\"";
      separator = ",\n";
    }
    out.index_json = json + "\n  }\n}\n";
  }
  return out;
}

uint64_t parse_size(std::string_view text) {
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const std::string unit = lower(std::string_view(end, static_cast<size_t>(text.data() + text.size() - end)));
  static const std::map<std::string, double> units{{"", 1},       {"b", 1},         {"kb", 1e3},        {"mb", 1e6},          {"gb", 1e9},
                                                   {"tb", 1e12},  {"kib", 1024.0},  {"mib", 1048576.0}, {"gib", 1073741824.0}, {"tib", 1099511627776.0}};
  const auto it = units.find(unit);
  require(error == std::errc() && it != units.end() && number > 0 && number * it->second >= 1 && number * it->second < 9e18,
          "size '{}': wanted a number with KB, MB, GB, TB, KiB, MiB, GiB or TiB", text);
  return static_cast<uint64_t>(number * it->second);
}

}  // namespace ponte
