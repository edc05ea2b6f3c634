#include "convert/inspect.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/errors.h"
#include "convert/segment_source.h"
#include "families/registry.h"
#include "format/torch_zip.h"

namespace ponte {
namespace {

InspectedTensor seen(const std::string& name, DType dtype, const std::vector<int64_t>& shape, const fs::path& file, int64_t chunks) {
  return {name, std::string(safetensors_name(dtype)), shape, static_cast<uint64_t>(tensor_bytes({name, dtype, shape})), file.filename().string(), chunks};
}

Inspection inspect_native(const fs::path& path) {
  Inspection out;
  out.path = iteration_directory(path);
  const TorchDistReader reader(out.path);
  out.format = fs::exists(out.path / "metadata.json") ? "torch_dist" : "fsdp_dtensor";
  for (const TorchDistTensor& t : reader.tensors())
    out.tensors.push_back(seen(t.name, t.dtype, t.shape, t.chunks.empty() ? fs::path() : reader.file(t.chunks[0].file).path(),
                               static_cast<int64_t>(t.chunks.size())));
  out.objects = reader.objects();
  return out;
}

// Lists of plain values are shown as one.
bool holds_tensor_or_dict(const Value& list, const std::string& origin) {
  return std::ranges::any_of(list.items(origin), [](const Value& item) { return item.kind() == Value::Kind::tensor || item.kind() == Value::Kind::dict; });
}

// Where a value lies in those around it: "args.num_layers", "optimizer.param_groups.0".
std::string below(const std::string& path, const std::string& name) { return path.empty() ? name : path + "." + name; }

std::string key_text(const Value& key) { return key.kind() == Value::Kind::text ? key.as_text("key") : describe(key, 60); }

void list_values(const Value& value, const std::string& path, const fs::path& file, Inspection& out) {
  const std::string origin = file.string();
  using Kind = Value::Kind;
  if (value.kind() == Kind::tensor) {
    const TensorValue& tensor = value.as_tensor(origin);
    out.tensors.push_back(seen(path.empty() ? "(the value)" : path, tensor.dtype, tensor.shape, file, 1));
  } else if (value.kind() == Kind::dict) {
    for (const auto& [key, entry] : value.entries(origin)) list_values(entry, below(path, key_text(key)), file, out);
  } else if (value.kind() == Kind::object && value.state().kind() == Kind::dict) {
    list_values(value.state(), path, file, out);
  } else if ((value.kind() == Kind::list || value.kind() == Kind::tuple) && holds_tensor_or_dict(value, origin)) {
    const Values& items = value.items(origin);
    for (size_t i = 0; i < items.size(); ++i) list_values(items[i], below(path, std::to_string(i)), file, out);
  } else {
    out.objects.push_back(format("{} = {}", path.empty() ? "(the value)" : path, describe(value)));
  }
}

enum class FileKind { torch_archive, pickle, other };

// By its first bytes. Those of safetensors are a length, which may be any, and a brace.
FileKind kind_of(const fs::path& path) {
  const MappedFile file(path);
  const std::string_view bytes(reinterpret_cast<const char*>(file.bytes().data()), std::min<size_t>(file.bytes().size(), 9));
  if (bytes.size() < 9 || bytes[8] == '{') return FileKind::other;
  if (bytes.starts_with("PK\x03\x04")) return FileKind::torch_archive;
  return bytes[0] == '\x80' && bytes[1] >= 2 && bytes[1] <= 5 ? FileKind::pickle : FileKind::other;
}

Inspection inspect_file(const fs::path& path) {
  const fs::path folder = fs::absolute(path).parent_path();
  const bool tensors = path.extension() == ".distcp";
  require(!tensors && path.filename() != ".metadata", "{}: {} of a torch_dist or fsdp_dtensor checkpoint; `ponte inspect {}` lists what it holds", path,
          tensors ? "one of the files with the tensors" : "the index", folder);
  const FileKind kind = kind_of(path);
  require(kind != FileKind::pickle,
          "{}: a pickle outside an archive of torch.save (torch before 1.6, or another program); archives of torch.save and safetensors are read", path);
  Inspection out;
  out.path = path;
  out.format = kind == FileKind::torch_archive ? "torch.save" : "safetensors";
  if (kind == FileKind::torch_archive) {
    list_values(load_torch_file(path, CheckCrc::no), "", path, out);
  } else {
    const SafetensorsFile file(path);
    for (const TensorView& t : file.tensors()) out.tensors.push_back(seen(t.name, t.dtype, t.shape, path, 1));
  }
  return out;
}

std::string shape_text(const std::vector<int64_t>& shape) { return format("{}", shape); }

// "128 rows" or "4 x 64 rows, every 128": how a box lies along one dim of its parameter.
std::string extent_text(const Box& box, int64_t dim) {
  std::vector<BoxAxis> axes;
  for (const BoxAxis& axis : box.axes)
    if (axis.native_dim == dim && axis.extent > 1) axes.push_back(axis);
  std::sort(axes.begin(), axes.end(), [](const BoxAxis& a, const BoxAxis& b) { return a.native_step > b.native_step; });
  const int64_t first = box.native_origin[dim];
  if (axes.empty()) return format("{}", first);
  if (axes.size() == 1 && axes[0].native_step == 1) return format("{}:{}", first, first + axes[0].extent);
  std::string out = format("{} +", first);
  for (const BoxAxis& axis : axes) out += axis.native_step == 1 ? format(" 0:{}", axis.extent) : format(" {}*(0:{})", axis.native_step, axis.extent);
  return out;
}

std::string box_text(const Box& box) {
  std::vector<std::string> dims;
  for (size_t d = 0; d < box.native_origin.size(); ++d) dims.push_back(extent_text(box, static_cast<int64_t>(d)));
  return "[" + join(dims, ", ") + "]";
}

struct MappedModel {
  ModelConfig config;
  RuleTable table;
  Dialect dialect;
};

MappedModel mapped_model(const fs::path& path) {
  if (is_hf_checkpoint(path)) {
    const HfSource source(path);
    return {source.config(), source.rules(), dialect_of(source.rules())};
  }
  require(is_native_checkpoint(path), "{}: --map wants a whole model: a Hugging Face folder (config.json and its safetensors) or a Megatron checkpoint", path);
  const NativeSource source(path, nullptr);
  return {source.config(), source.rules(), source.dialect()};
}

}  // namespace

Inspection inspect_checkpoint(const fs::path& path) {
  require(fs::exists(path), "{}: no such file or folder", path);
  Inspection out;
  if (fs::is_regular_file(path)) {
    out = inspect_file(path);
  } else if (is_native_checkpoint(path)) {
    out = inspect_native(path);
  } else {
    const HfCheckpoint checkpoint(path);
    out.format = "huggingface";
    out.path = path;
    for (const HfTensor& t : checkpoint.tensors()) out.tensors.push_back(seen(t.name, t.dtype, t.shape, checkpoint.file(t.file).path(), 1));
  }
  for (const InspectedTensor& t : out.tensors) out.bytes += t.bytes;
  return out;
}

std::string inspection_text(const Inspection& inspection) {
  size_t name = 4, shape = 5;
  for (const InspectedTensor& t : inspection.tensors) {
    name = std::max(name, t.name.size());
    shape = std::max(shape, shape_text(t.shape).size());
  }
  std::string out;
  for (const InspectedTensor& t : inspection.tensors) {
    out += format("{:{}}  {:5} {:{}}  {:>9}  {}", t.name, static_cast<int64_t>(name), t.dtype, shape_text(t.shape), static_cast<int64_t>(shape),
                  human_bytes(t.bytes), t.file);
    out += t.chunks > 1 ? format("  {} chunks\n", t.chunks) : "\n";
  }
  if (inspection.format == "torch.save")
    for (const std::string& value : inspection.objects) out += value + "\n";
  out += format("{}: {} tensors, {} objects, {}, {}\n", inspection.path, inspection.tensors.size(), inspection.objects.size(), human_bytes(inspection.bytes),
                inspection.format);
  return out;
}

Json inspection_json(const Inspection& inspection) {
  Json out = {{"path", inspection.path.string()}, {"format", inspection.format}, {"bytes", inspection.bytes}, {"tensors", Json::array()}};
  for (const InspectedTensor& t : inspection.tensors)
    out["tensors"].push_back({{"name", t.name}, {"dtype", t.dtype}, {"shape", t.shape}, {"bytes", t.bytes}, {"file", t.file}, {"chunks", t.chunks}});
  out["objects"] = inspection.objects;
  return out;
}

std::string map_text(const fs::path& path) {
  const MappedModel model = mapped_model(path);
  std::string out = format("{}\n", model.config.hf_architecture);
  for (const Rule& rule : model.table.rules) {
    const StoredSegment first = stored_segment(rule, 0, model.dialect);
    out += format("{} {}\n", rule.name(), rule.shape);
    if (first.key != rule.name() || !first.prefix.empty())
      out += format("    on disk: {}{}\n", first.key, first.prefix.empty() ? "" : format(" {}", first.prefix));
    for (size_t s = 0; s < rule.segments.size(); ++s) {
      const Segment& segment = rule.segments[s];
      const std::string label = segment.name.empty() ? "" : segment.name + " ";
      for (const Box& box : segment.boxes) out += format("    {}{} <- {}\n", label, box_text(box), rule.sources[box.source].name);
    }
  }
  for (const Alias& alias : model.table.aliases) out += format("{}: the same as {}\n", alias.hf_name, alias.same_as);
  return out;
}

Json map_json(const fs::path& path) {
  const MappedModel model = mapped_model(path);
  Json out = {{"architecture", model.config.hf_architecture}, {"parameters", Json::array()}, {"aliases", Json::object()}};
  for (const Rule& rule : model.table.rules) {
    Json entry = {{"name", rule.name()}, {"shape", rule.shape}, {"segments", Json::array()}};
    for (size_t s = 0; s < rule.segments.size(); ++s) {
      const Segment& segment = rule.segments[s];
      const StoredSegment stored = stored_segment(rule, s, model.dialect);
      Json part = {{"name", segment.name},   {"shape", segment.shape}, {"key", stored.key},
                   {"index", stored.prefix}, {"row", stored.row},      {"boxes", Json::array()}};
      for (const RowRun& run : stored.runs) part["runs"].push_back({{"row", run.native}, {"rows", run.rows}, {"stored", run.stored}});
      for (const Box& box : segment.boxes) {
        Json axes = Json::array();
        for (const BoxAxis& a : box.axes) axes.push_back({{"extent", a.extent}, {"hf_stride", a.hf_stride}, {"dim", a.native_dim}, {"step", a.native_step}});
        part["boxes"].push_back({{"hf", rule.sources[box.source].name}, {"hf_origin", box.hf_origin}, {"origin", box.native_origin}, {"axes", axes}});
      }
      entry["segments"].push_back(std::move(part));
    }
    out["parameters"].push_back(std::move(entry));
  }
  for (const Alias& alias : model.table.aliases) out["aliases"][alias.hf_name] = alias.same_as;
  return out;
}

}  // namespace ponte
