// torch.save archives: an uncompressed zip with records <prefix>/data.pkl, byteorder, version, data/<key>, every record's bytes aligned to 64.
// Source: torch/serialization.py and caffe2/serialize/inline_container.cc.
#pragma once
#include <array>

#include "base/file.h"
#include "format/pickle.h"

namespace ponte {

enum class CheckCrc { no, yes };  // no: as torch.load, which never checks; data stays unread until it is used

struct ZipRecord {
  std::string name;     // without the archive's prefix: "data.pkl", "data/0"
  uint64_t offset = 0;  // of its bytes from the start of the archive
  uint64_t bytes = 0;
  uint32_t crc = 0;
};

// Central directory of a stored (never compressed) zip, zip64 included. Every record's local header is compared with it and must lie inside the archive
// without overlap. UserError naming `origin` otherwise.
std::vector<ZipRecord> read_zip(std::span<const std::byte> archive, std::string_view origin);

// The value of a torch.save archive. Tensors point into `archive`; `owner` keeps it alive.
Value read_torch_archive(std::span<const std::byte> archive, std::string_view origin, std::shared_ptr<const void> owner = {}, CheckCrc check = CheckCrc::no);
Value load_torch_file(const fs::path& file, CheckCrc check = CheckCrc::yes);

// A whole archive in memory (dicts, small tensors, objects). `prefix` is the folder name inside the zip: "archive", or the file's stem.
std::string write_torch_archive(const Value& value, std::string_view prefix = "archive");
void save_torch_file(const fs::path& file, const Value& value);  // atomically

// An archive of exactly one contiguous tensor whose bytes are written elsewhere and later: `head` (data.pkl ... local header of data/0), the
// tensor's bytes at head.size(), then `tail`. Sizes do not depend on the CRC.
struct TensorArchive {
  uint64_t data_offset = 0;  // multiple of 64
  uint64_t data_bytes = 0;
  uint64_t total_bytes = 0;
};
TensorArchive plan_tensor_archive(DType dtype, std::span<const int64_t> shape);
struct TensorArchiveParts {
  std::string head, tail;
};
TensorArchiveParts render_tensor_archive(DType dtype, std::span<const int64_t> shape, uint32_t data_crc);

}  // namespace ponte
