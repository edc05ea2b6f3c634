// `.metadata` of a DCP folder as plain structs, both ways; for torch_dist*.cpp.
#pragma once
#include "format/torch_dist.h"

namespace ponte {

struct StorageInfo {
  std::string file;  // a plain file name in the folder
  uint64_t offset = 0, bytes = 0;
};

struct DistItem {  // where one chunk (offsets given) or one object lies
  std::string key;
  std::optional<std::vector<int64_t>> offsets;
  StorageInfo storage;
};

struct DistMetadata {
  std::vector<TorchDistTensor> tensors;  // chunks without their places
  std::vector<std::string> objects;
  std::vector<DistItem> items;
};

DistMetadata parse_dist_metadata(std::span<const std::byte> pickle, std::string_view origin);
std::string render_dist_metadata(const DistMetadata& metadata);

// Appends the chunks, objects and items of `part`. UserError when a tensor differs in dtype or shape, or an object is there already.
void merge_dist_metadata(DistMetadata& into, DistMetadata part);

// The chunks are inside the tensor, do not overlap and leave nothing out. UserError naming `origin` and the tensor.
void check_cover(const TorchDistTensor& tensor, std::string_view origin);

}  // namespace ponte
