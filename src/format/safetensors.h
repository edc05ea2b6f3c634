// safetensors files: 8 bytes of header length (little-endian), a JSON header, then the tensors' bytes without gaps.
// Source: the format section of the safetensors README and the checks of its Rust reader (safetensors/src/tensor.rs).
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/dtype.h"
#include "base/file.h"

namespace ponte {

// A tensor to be written: what a header says of it, without its place.
struct TensorSpec {
  std::string name;
  DType dtype = DType::f32;
  std::vector<int64_t> shape;
};

int64_t tensor_bytes(const TensorSpec& tensor);  // checked product; throws UserError naming the tensor

// One tensor of an open file.
struct TensorView {
  std::string name;
  DType dtype = DType::f32;
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;  // row-major elements, borrowed from the mapping
  uint64_t offset = 0;               // of bytes[0] from the start of the file
};

using StringPairs = std::vector<std::pair<std::string, std::string>>;

struct SafetensorsHeader {
  std::vector<TensorView> tensors;  // in the order of their bytes in the file
  StringPairs metadata;             // "__metadata__"
};

// Strict: UserError naming `origin` (and the tensor) for a header over 100 MB or past the end, bad JSON, a duplicate key, an unknown dtype,
// shape x dtype != range, ranges that overlap, leave holes, or do not end with the file.
SafetensorsHeader parse_safetensors(std::span<const std::byte> file, std::string_view origin);

class SafetensorsFile {
 public:
  explicit SafetensorsFile(const fs::path& file);
  const std::vector<TensorView>& tensors() const { return header_.tensors; }
  const StringPairs& metadata() const { return header_.metadata; }
  const TensorView* find(std::string_view name) const;  // nullptr when absent
  const TensorView& at(std::string_view name) const;    // UserError naming the file and the nearest name
  const MappedFile& mapping() const { return mapping_; }
  const fs::path& path() const { return mapping_.path(); }

 private:
  MappedFile mapping_;
  SafetensorsHeader header_;
  std::unordered_map<std::string_view, size_t> index_;
};

// The exact layout of a file before any data exists: write `header` at 0 and each tensor's bytes at offsets[i], in any order, from any thread.
struct SafetensorsPlan {
  std::string header;             // length prefix and padded JSON
  std::vector<uint64_t> offsets;  // from the start of the file; same indices as the given tensors
  uint64_t file_bytes = 0;
};

// Bytes are laid out as the safetensors library does (wider types first, then by name), so equal content gives equal files.
SafetensorsPlan plan_safetensors(std::span<const TensorSpec> tensors, const StringPairs& metadata = {{"format", "pt"}});

}  // namespace ponte
