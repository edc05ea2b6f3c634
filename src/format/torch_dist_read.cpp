// Opening a DCP folder and finding the bytes of its chunks and objects.
#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "base/checked.h"
#include "base/json.h"
#include "format/torch_dist_metadata.h"

namespace ponte {
TorchDistReader::TorchDistReader(const fs::path& directory) : directory_(directory) {
  require(fs::is_directory(directory), "{}: no such checkpoint folder", directory);
  const fs::path metadata_file = directory / ".metadata";
  require(fs::exists(metadata_file), "{}: no .metadata: not a distributed checkpoint, or one whose writing was interrupted", directory);
  const MappedFile mapping(metadata_file);
  const std::string origin = metadata_file.string();
  DistMetadata metadata = parse_dist_metadata(mapping.bytes(), origin);
  tensors_ = std::move(metadata.tensors);
  object_names_ = std::move(metadata.objects);
  for (size_t i = 0; i < tensors_.size(); ++i) tensor_index_.emplace(tensors_[i].name, i);

  std::map<std::string, size_t> file_index;
  std::map<std::pair<std::string_view, std::vector<int64_t>>, std::pair<size_t, StorageInfo>> chunk_places;
  for (const DistItem& item : metadata.items) {
    const StorageInfo& s = item.storage;
    require(is_plain_file_name(s.file), "{}: '{}' lies in '{}', wanted a plain file name", origin, item.key, s.file);
    if (!file_index.contains(s.file)) {
      require(fs::exists(directory / s.file), "{}: data file {} is missing; '{}' lies in it", directory, s.file, item.key);
      file_index.emplace(s.file, files_.size());
      files_.push_back(std::make_shared<MappedFile>(directory / s.file));
    }
    const size_t file = file_index[s.file];
    const uint64_t size = files_[file]->bytes().size();
    require(s.bytes <= size && s.offset <= size - s.bytes, "{}: '{}' is {} bytes at byte {} of {}, which has {}: truncated?", directory, item.key,
            s.bytes, s.offset, s.file, size);
    if (item.offsets) chunk_places[{item.key, *item.offsets}] = {file, s};
    else objects_[item.key] = {file, s.offset, s.bytes};
  }
  for (TorchDistTensor& t : tensors_) {
    for (TorchDistChunk& c : t.chunks) {
      const auto it = chunk_places.find({t.name, c.offsets});
      require(it != chunk_places.end(), "{}: tensor '{}': the chunk at {} has no data", origin, t.name, c.offsets);
      c.file = it->second.first;
      c.item_offset = it->second.second.offset;
      c.item_bytes = it->second.second.bytes;
    }
    std::sort(t.chunks.begin(), t.chunks.end(), [](const auto& a, const auto& b) { return a.offsets < b.offsets; });
    check_cover(t, origin);
  }
  for (const std::string& name : object_names_) require(objects_.contains(name), "{}: object '{}' has no data", origin, name);
}

const TorchDistTensor* TorchDistReader::find(std::string_view name) const {
  const auto it = tensor_index_.find(std::string(name));
  return it == tensor_index_.end() ? nullptr : &tensors_[it->second];
}

const TorchDistTensor& TorchDistReader::at(std::string_view name) const {
  if (const TorchDistTensor* t = find(name)) return *t;
  std::vector<std::string> names;
  for (const TorchDistTensor& t : tensors_) names.push_back(t.name);
  const std::string near = nearest(name, names);
  fail("{}: no tensor '{}'{}", directory_, name, near.empty() ? "" : format("; did you mean '{}'?", near));
}

std::string TorchDistReader::item_name(size_t file, std::string_view key) const { return format("{}: '{}'", files_[file]->path(), key); }

ChunkBytes TorchDistReader::bytes(const TorchDistTensor& tensor, const TorchDistChunk& chunk, CheckCrc check) const {
  const std::string what = item_name(chunk.file, tensor.name);
  const auto file = files_[chunk.file]->bytes();
  const Value value = read_torch_archive(file.subspan(chunk.item_offset, chunk.item_bytes), what, {}, check);
  const TensorValue& stored = value.as_tensor(what);
  require(stored.dtype == tensor.dtype, "{}: stored as {}, .metadata says {}", what, torch_name(stored.dtype), torch_name(tensor.dtype));
  require(stored.shape == chunk.sizes, "{}: stored with shape {}, .metadata says {}", what, stored.shape, chunk.sizes);
  ChunkBytes out;
  if (stored.contiguous()) {
    out.bytes = stored.bytes(what);
    out.file_offset = out.bytes.empty() ? 0 : static_cast<uint64_t>(out.bytes.data() - file.data());
  } else {
    out.owned = std::make_shared<std::vector<std::byte>>(stored.gather(what));
    out.bytes = *out.owned;
  }
  return out;
}

bool TorchDistReader::has_object(std::string_view name) const { return objects_.contains(std::string(name)); }

std::span<const std::byte> TorchDistReader::object_bytes(std::string_view name) const {
  const auto it = objects_.find(std::string(name));
  require(it != objects_.end(), "{}: no object '{}'", directory_, name);
  return files_[it->second.file]->bytes().subspan(it->second.offset, it->second.bytes);
}

Value TorchDistReader::object(std::string_view name) const {
  const auto bytes = object_bytes(name);
  const size_t file = objects_.at(std::string(name)).file;
  return read_torch_archive(bytes, item_name(file, name), files_[file], CheckCrc::yes);
}

std::optional<Value> TorchDistReader::common_state() const {
  constexpr const char* kCommonState = "common_state/shard_0_1";
  if (const fs::path file = directory_ / "common.pt"; fs::exists(file)) return load_torch_file(file);
  if (!has_object(kCommonState)) return std::nullopt;
  const Value value = object(kCommonState);
  if (value.kind() != Value::Kind::list) return value;
  const Values& items = value.items(kCommonState);
  require(items.size() == 1, "{}: {} holds {} values, wanted 1", directory_, kCommonState, items.size());
  return items[0];
}

std::optional<TorchDistFormat> read_metadata_json(const fs::path& directory) {
  const fs::path file = directory / "metadata.json";
  if (!fs::exists(file)) return std::nullopt;
  const Json json = read_json(file);
  const std::string origin = file.string();
  TorchDistFormat out{json_get<std::string>(json, "sharded_backend", origin), json_get_or<int64_t>(json, "sharded_backend_version", 1, origin)};
  require(out.sharded_backend == "torch_dist", "{}: sharded_backend '{}', wanted 'torch_dist'", origin, out.sharded_backend);
  require(out.sharded_backend_version == 1, "{}: sharded_backend_version {}, wanted 1", origin, out.sharded_backend_version);
  return out;
}

std::string metadata_json() {
  return R"({"sharded_backend": "torch_dist", "sharded_backend_version": 1, "common_backend": "torch", "common_backend_version": 1})";
}

}  // namespace ponte
