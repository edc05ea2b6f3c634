// DCP's dataclasses from and to pickles: Metadata{state_dict_metadata, storage_data, ...}. Planner data and save plans are read over.
#include "format/torch_dist_metadata.h"

#include <algorithm>
#include <map>
#include <set>

#include "base/checked.h"

namespace ponte {
namespace {

constexpr const char* kMetadataModule = "torch.distributed.checkpoint.metadata";

std::vector<int64_t> extents(const Value& v, std::string_view what) {
  std::vector<int64_t> out;
  for (const Value& item : v.items(what)) {
    const int64_t extent = item.as_integer(what);
    require(extent >= 0, "{}: negative extent {}", what, extent);
    out.push_back(extent);
  }
  return out;
}

DType dtype_of(const Value& properties, std::string_view what) {
  // State of TensorProperties: (dtype, layout, requires_grad, memory format, pin_memory); a dict in files of old torch versions.
  const Value& state = properties.state();
  const Value* dtype = state.find("dtype");
  if (!dtype) {
    if (state.kind() != Value::Kind::tuple || state.items(what).empty()) fail("{}: tensor properties {}, wanted a dtype", what, describe(state, 60));
    dtype = &state.items(what)[0];
  }
  if (dtype->kind() != Value::Kind::global) fail("{}: dtype {}, wanted a torch dtype", what, describe(*dtype, 60));
  return dtype_from_torch(dtype->type_name());
}

TorchDistTensor read_tensor(const std::string& key, const Value& v, std::string_view origin) {
  const std::string what = format("{}: tensor '{}'", origin, key);
  TorchDistTensor out;
  out.name = key;
  out.dtype = dtype_of(v.at("properties", what), what);
  out.shape = extents(v.at("size", what), what);
  checked_multiply(checked_numel(out.shape, what), dtype_bytes(out.dtype), what);
  for (const Value& c : v.at("chunks", what).items(what)) {
    TorchDistChunk chunk;
    chunk.offsets = extents(c.at("offsets", what), what);
    chunk.sizes = extents(c.at("sizes", what), what);
    require(chunk.offsets.size() == out.shape.size() && chunk.sizes.size() == out.shape.size(), "{}: chunk at {} of sizes {} in a tensor of shape {}", what,
            chunk.offsets, chunk.sizes, out.shape);
    if (checked_numel(chunk.sizes, what) > 0 || out.shape.empty()) out.chunks.push_back(std::move(chunk));
  }
  return out;
}

DistItem read_item(const Value& index, const Value& info, std::string_view origin) {
  DistItem out;
  out.key = index.at("fqn", origin).as_text(origin);
  const std::string what = format("{}: '{}'", origin, out.key);
  if (const Value* offset = index.find("offset"); offset && !offset->is_none()) out.offsets = extents(*offset, what);
  out.storage.file = info.at("relative_path", what).as_text(what);
  const int64_t offset = info.at("offset", what).as_integer(what), bytes = info.at("length", what).as_integer(what);
  require(offset >= 0 && bytes >= 0, "{}: item of {} bytes at byte {}", what, bytes, offset);
  out.storage.offset = static_cast<uint64_t>(offset);
  out.storage.bytes = static_cast<uint64_t>(bytes);
  const Value* transforms = info.find("transform_descriptors");
  if (transforms && !transforms->is_none() && !transforms->items(what).empty())
    fail("{}: stored through {}; transforms are not supported", what, describe(*transforms, 60));
  return out;
}

}  // namespace

DistMetadata parse_dist_metadata(std::span<const std::byte> pickle, std::string_view origin) {
  const Value root = read_pickle(pickle, origin);
  if (root.kind() != Value::Kind::object) fail("{}: found {}, wanted the Metadata of torch.distributed.checkpoint", origin, describe(root, 60));
  DistMetadata out;
  std::set<std::string_view> seen;
  for (const auto& [key, v] : root.at("state_dict_metadata", origin).entries(origin)) {
    const std::string& name = key.as_text(origin);
    require(seen.insert(name).second, "{}: two entries named '{}'", origin, name);
    const std::string type = v.type_name();
    if (type.ends_with(".TensorStorageMetadata")) out.tensors.push_back(read_tensor(name, v, origin));
    else if (type.ends_with(".BytesStorageMetadata")) out.objects.push_back(name);
    else fail("{}: '{}' is {}, wanted a tensor or an object", origin, name, describe(v, 60));
  }
  for (const auto& [index, info] : root.at("storage_data", origin).entries(origin)) out.items.push_back(read_item(index, info, origin));
  return out;
}

void check_cover(const TorchDistTensor& tensor, std::string_view origin) {
  const size_t rank = tensor.shape.size();
  const std::string what = format("{}: tensor '{}'", origin, tensor.name);
  int64_t covered = 0;
  std::vector<std::set<int64_t>> begins(rank);
  for (const TorchDistChunk& c : tensor.chunks) {
    for (size_t axis = 0; axis < rank; ++axis) {
      require(c.sizes[axis] <= tensor.shape[axis] && c.offsets[axis] <= tensor.shape[axis] - c.sizes[axis], "{}: chunk at {} of sizes {} leaves shape {}", what,
              c.offsets, c.sizes, tensor.shape);
      begins[axis].insert(c.offsets[axis]);
    }
    covered = checked_add(covered, checked_numel(c.sizes, what), what);
  }
  const int64_t wanted = checked_numel(tensor.shape, what);
  require(covered == wanted, "{}: its chunks hold {} of {} elements", what, covered, wanted);
  if (tensor.chunks.size() < 2) return;
  // Sweep along the axis with the most cuts: only chunks that share a coordinate there can overlap.
  size_t axis = 0;
  for (size_t i = 1; i < rank; ++i) axis = begins[i].size() > begins[axis].size() ? i : axis;
  std::vector<const TorchDistChunk*> order;
  for (const TorchDistChunk& c : tensor.chunks) order.push_back(&c);
  std::sort(order.begin(), order.end(), [&](auto* a, auto* b) { return a->offsets[axis] < b->offsets[axis]; });
  std::vector<const TorchDistChunk*> active;
  for (const TorchDistChunk* c : order) {
    std::erase_if(active, [&](auto* a) { return a->offsets[axis] + a->sizes[axis] <= c->offsets[axis]; });
    for (const TorchDistChunk* a : active) {
      bool disjoint = false;
      for (size_t i = 0; i < rank && !disjoint; ++i)
        disjoint = a->offsets[i] + a->sizes[i] <= c->offsets[i] || c->offsets[i] + c->sizes[i] <= a->offsets[i];
      require(disjoint, "{}: chunks at {} and {} overlap", what, a->offsets, c->offsets);
    }
    active.push_back(c);
  }
}

namespace {

Value size_value(const std::vector<int64_t>& extents) {
  Values items;
  for (const int64_t e : extents) items.push_back(Value::integer(e));
  return Value::call("torch", "Size", {Value::tuple(std::move(items))});
}

Value properties_value(DType dtype) {
  const std::string name(torch_name(dtype).substr(6));
  return Value::construct(
      kMetadataModule, "TensorProperties", {},
      Value::tuple({Value::global("torch", name), Value::call("torch.serialization", "_get_layout", {Value::text("torch.strided")}),
                    Value::boolean(false), Value::call(kMetadataModule, "_MEM_FORMAT_ENCODING", {Value::integer(0)}), Value::boolean(false)}));
}

Value tensor_value(const TorchDistTensor& tensor, std::map<DType, Value>& properties) {
  Value& shared = properties[tensor.dtype];
  if (shared.is_none()) shared = properties_value(tensor.dtype);
  Values chunks;
  for (const TorchDistChunk& c : tensor.chunks)
    chunks.push_back(Value::construct(kMetadataModule, "ChunkStorageMetadata", {},
                                      Value::dict_of({{"offsets", size_value(c.offsets)}, {"sizes", size_value(c.sizes)}})));
  return Value::construct(kMetadataModule, "TensorStorageMetadata", {},
                          Value::dict_of({{"properties", shared}, {"size", size_value(tensor.shape)}, {"chunks", Value::list(std::move(chunks))}}));
}

}  // namespace

std::string render_dist_metadata(const DistMetadata& metadata) {
  std::map<DType, Value> properties;
  ValuePairs entries, storage;
  for (const TorchDistTensor& t : metadata.tensors) entries.emplace_back(Value::text(t.name), tensor_value(t, properties));
  for (const std::string& name : metadata.objects)
    entries.emplace_back(Value::text(name), Value::construct(kMetadataModule, "BytesStorageMetadata", {}, Value()));
  for (const DistItem& item : metadata.items) {
    Value index = Value::construct(
        kMetadataModule, "MetadataIndex", {},
        Value::dict_of({{"fqn", Value::text(item.key)}, {"offset", item.offsets ? size_value(*item.offsets) : Value()}, {"index", Value()}}));
    Value info = Value::construct("torch.distributed.checkpoint.filesystem", "_StorageInfo", {},
                                  Value::dict_of({{"relative_path", Value::text(item.storage.file)},
                                                  {"offset", Value::integer(static_cast<int64_t>(item.storage.offset))},
                                                  {"length", Value::integer(static_cast<int64_t>(item.storage.bytes))}}));
    storage.emplace_back(std::move(index), std::move(info));
  }
  return write_pickle(Value::construct(
      kMetadataModule, "Metadata", {},
      Value::dict_of(
          {{"state_dict_metadata", Value::dict(std::move(entries))}, {"planner_data", Value()}, {"storage_data", Value::dict(std::move(storage))}})));
}

void merge_dist_metadata(DistMetadata& into, DistMetadata part) {
  std::map<std::string, size_t> index;
  for (size_t i = 0; i < into.tensors.size(); ++i) index.emplace(into.tensors[i].name, i);
  std::set<std::string> objects(into.objects.begin(), into.objects.end());
  for (TorchDistTensor& t : part.tensors) {
    const auto [it, added] = index.emplace(t.name, into.tensors.size());
    if (added) {
      into.tensors.push_back(std::move(t));
      continue;
    }
    TorchDistTensor& known = into.tensors[it->second];
    require(known.dtype == t.dtype && known.shape == t.shape, "tensor '{}' is {} {} on one rank and {} {} on another", t.name,
            torch_name(known.dtype), known.shape, torch_name(t.dtype), t.shape);
    for (TorchDistChunk& c : t.chunks) known.chunks.push_back(std::move(c));
  }
  for (std::string& name : part.objects) {
    require(objects.insert(name).second, "object '{}' is written by two ranks", name);
    into.objects.push_back(std::move(name));
  }
  for (DistItem& item : part.items) into.items.push_back(std::move(item));
}

}  // namespace ponte
