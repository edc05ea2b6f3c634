// The header as JSON, then every range against the data area; and the other way round, a layout for given tensors.
#include "format/safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/checked.h"
#include "base/json.h"
#include "format/json_fields.h"

namespace ponte {
namespace {

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the limit of the safetensors library

StringPairs read_metadata(const JsonElement& value, std::string_view origin) {
  JsonObject object;
  require(value.get(object) == simdjson::SUCCESS, "{}: __metadata__ is not an object of texts", origin);
  StringPairs out;
  each_field(object, origin, [&](std::string_view key, const JsonElement& v) {
    std::string_view text;
    require(v.get(text) == simdjson::SUCCESS, "{}: __metadata__ '{}' is not a text", origin, key);
    out.emplace_back(key, text);
  });
  return out;
}

std::vector<int64_t> read_integers(const JsonElement& value, std::string_view what) {
  simdjson::dom::array array;
  require(value.get(array) == simdjson::SUCCESS, "{} is not a list of integers", what);
  std::vector<int64_t> out;
  for (const JsonElement item : array) {
    int64_t v = 0;
    require(item.get(v) == simdjson::SUCCESS && v >= 0, "{} holds something other than integers from 0 to 2^63-1", what);
    out.push_back(v);
  }
  return out;
}

struct Range {
  uint64_t begin = 0, end = 0;  // in the data area
};

std::pair<TensorView, Range> read_tensor(std::string_view name, const JsonElement& value, std::string_view origin) {
  const std::string what = format("{}: tensor '{}'", origin, name);
  JsonObject object;
  require(value.get(object) == simdjson::SUCCESS, "{}: its header entry is not an object", what);
  TensorView t;
  t.name = std::string(name);
  Range range;
  int found = 0;
  each_field(object, what, [&](std::string_view key, const JsonElement& v) {
    if (key == "dtype") {
      std::string_view text;
      require(v.get(text) == simdjson::SUCCESS, "{}: dtype is not a text", what);
      try {
        t.dtype = dtype_from_safetensors(text);
      } catch (const UserError& e) {
        fail("{}: {}", what, e.what());
      }
      found |= 1;
    } else if (key == "shape") {
      t.shape = read_integers(v, what + ": shape");
      found |= 2;
    } else if (key == "data_offsets") {
      const auto offsets = read_integers(v, what + ": data_offsets");
      require(offsets.size() == 2 && offsets[0] <= offsets[1], "{}: data_offsets {}, wanted [begin, end]", what, offsets);
      range = {static_cast<uint64_t>(offsets[0]), static_cast<uint64_t>(offsets[1])};
      found |= 4;
    } else {
      fail("{}: unknown field '{}' in its header entry", what, key);
    }
  });
  require(found == 7, "{}: its header entry lacks {}", what, !(found & 1) ? "dtype" : !(found & 2) ? "shape" : "data_offsets");
  const int64_t wanted = checked_multiply(checked_numel(t.shape, what), dtype_bytes(t.dtype), what);
  require(static_cast<uint64_t>(wanted) == range.end - range.begin, "{}: {} of shape {} needs {} bytes, its range has {}", what,
          safetensors_name(t.dtype), t.shape, wanted, range.end - range.begin);
  return {std::move(t), range};
}

// Position of a dtype in the library's enumeration; files list wider (later) types first.
int library_rank(DType dtype) {
  static constexpr std::array<DType, 16> order{DType::boolean, DType::u8,   DType::i8,  DType::f8_e5m2, DType::f8_e4m3, DType::f8_e8m0, DType::i16, DType::u16,
                                               DType::f16,     DType::bf16, DType::i32, DType::u32,     DType::f32,     DType::f64,     DType::i64, DType::u64};
  return static_cast<int>(std::find(order.begin(), order.end(), dtype) - order.begin());
}

}  // namespace

int64_t tensor_bytes(const TensorSpec& tensor) {
  const std::string what = format("tensor '{}'", tensor.name);
  return checked_multiply(checked_numel(tensor.shape, what), dtype_bytes(tensor.dtype), what);
}

SafetensorsHeader parse_safetensors(std::span<const std::byte> file, std::string_view origin) {
  require(file.size() >= 8, "{}: {} bytes are too few for a safetensors file: truncated?", origin, file.size());
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, file.data(), 8);
  require(header_bytes <= kMaxHeaderBytes, "{}: header of {} bytes, the limit is {}: not a safetensors file?", origin, header_bytes, kMaxHeaderBytes);
  require(header_bytes <= file.size() - 8, "{}: header of {} bytes in a file of {}: truncated?", origin, header_bytes, file.size());
  simdjson::dom::parser parser;
  JsonObject root;
  const auto error = parser.parse(reinterpret_cast<const char*>(file.data()) + 8, header_bytes, true).get(root);
  require(error == simdjson::SUCCESS, "{}: the header is not a JSON object ({})", origin, simdjson::error_message(error));

  SafetensorsHeader out;
  std::vector<std::pair<TensorView, Range>> found;
  each_field(root, origin, [&](std::string_view key, const JsonElement& value) {
    if (key == "__metadata__") out.metadata = read_metadata(value, origin);
    else found.push_back(read_tensor(key, value, origin));
  });
  std::stable_sort(found.begin(), found.end(), [](const auto& a, const auto& b) {
    return std::pair(a.second.begin, a.second.end) < std::pair(b.second.begin, b.second.end);
  });
  const auto data = file.subspan(8 + header_bytes);
  uint64_t end = 0;
  for (auto& [t, range] : found) {
    require(range.begin >= end, "{}: tensor '{}' overlaps the one before it ({} < {})", origin, t.name, range.begin, end);
    require(range.begin == end, "{}: {} unused bytes before tensor '{}'", origin, range.begin - end, t.name);
    require(range.end <= data.size(), "{}: tensor '{}' ends at byte {} of {}: truncated?", origin, t.name, range.end, data.size());
    t.bytes = data.subspan(range.begin, range.end - range.begin);
    t.offset = 8 + header_bytes + range.begin;
    end = range.end;
    out.tensors.push_back(std::move(t));
  }
  require(end == data.size(), "{}: {} bytes after the last tensor", origin, data.size() - end);
  return out;
}

SafetensorsFile::SafetensorsFile(const fs::path& file) : mapping_(file), header_(parse_safetensors(mapping_.bytes(), file.string())) {
  for (size_t i = 0; i < header_.tensors.size(); ++i) index_.emplace(header_.tensors[i].name, i);
}

const TensorView* SafetensorsFile::find(std::string_view name) const {
  const auto it = index_.find(name);
  return it == index_.end() ? nullptr : &header_.tensors[it->second];
}

const TensorView& SafetensorsFile::at(std::string_view name) const {
  if (const TensorView* t = find(name)) return *t;
  std::vector<std::string> names;
  for (const TensorView& t : tensors()) names.push_back(t.name);
  const std::string near = nearest(name, names);
  fail("{}: no tensor '{}'{}", path(), name, near.empty() ? "" : format("; did you mean '{}'?", near));
}

SafetensorsPlan plan_safetensors(std::span<const TensorSpec> tensors, const StringPairs& metadata) {
  std::vector<size_t> order(tensors.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    const int rank_a = library_rank(tensors[a].dtype), rank_b = library_rank(tensors[b].dtype);
    return rank_a != rank_b ? rank_a > rank_b : tensors[a].name < tensors[b].name;
  });
  const auto quoted = [](const std::string& text) { return Json(text).dump(); };
  std::string json = "{";
  if (!metadata.empty()) {
    json += "\"__metadata__\":{";
    for (const auto& [key, value] : metadata) json += (json.back() == '{' ? "" : ",") + quoted(key) + ":" + quoted(value);
    json += "}";
  }
  SafetensorsPlan plan;
  plan.offsets.resize(tensors.size());
  uint64_t end = 0;
  for (size_t k = 0; k < order.size(); ++k) {
    const TensorSpec& t = tensors[order[k]];
    require(k == 0 || tensors[order[k - 1]].name != t.name, "two tensors named '{}' in one file", t.name);
    const uint64_t begin = end;
    end = static_cast<uint64_t>(checked_add(static_cast<int64_t>(end), tensor_bytes(t), t.name));
    plan.offsets[order[k]] = begin;
    json += json.size() > 1 ? "," : "";
    json += quoted(t.name) + ":{\"dtype\":\"" + std::string(safetensors_name(t.dtype)) + "\",\"shape\":[";
    for (size_t i = 0; i < t.shape.size(); ++i) json += (i ? "," : "") + std::to_string(t.shape[i]);
    json += "],\"data_offsets\":[" + std::to_string(begin) + "," + std::to_string(end) + "]}";
  }
  json += "}";
  json.append((8 - json.size() % 8) % 8, ' ');
  require(json.size() <= kMaxHeaderBytes, "a safetensors header of {} bytes is over the limit of {}", json.size(), kMaxHeaderBytes);
  const uint64_t length = json.size();
  plan.header.assign(reinterpret_cast<const char*>(&length), 8);
  plan.header += json;
  for (uint64_t& offset : plan.offsets) offset += plan.header.size();
  plan.file_bytes = plan.header.size() + end;
  return plan;
}

}  // namespace ponte
