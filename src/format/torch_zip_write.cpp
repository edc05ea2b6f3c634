// Writing torch.save archives. Local headers carry sizes and CRC, so no data descriptors follow; extra field "FB" pads each record's bytes to a
// multiple of 64, as torch's own writer does.
#include <cstring>
#include <unordered_map>

#include "base/checked.h"
#include "format/crc32.h"
#include "format/torch_zip.h"

namespace ponte {
namespace {

constexpr uint64_t kAlignment = 64;
constexpr uint64_t kBig = 0xffffffff;  // sizes and offsets from here on go to zip64 fields

template <class T>
void put(std::string& out, T v) {
  out.append(reinterpret_cast<const char*>(&v), sizeof v);
}

std::span<const std::byte> as_span(std::string_view text) { return std::as_bytes(std::span(text.data(), text.size())); }

struct Placed {
  std::string name;
  uint64_t header = 0, bytes = 0;
  uint32_t crc = 0;
};

// Collects a zip whose record bytes may live elsewhere: `out` gets the headers and small records, `skipped` counts bytes that are not in `out`.
class ZipWriter {
 public:
  explicit ZipWriter(std::string prefix) : prefix_(std::move(prefix)) {}

  uint64_t position() const { return out.size() + skipped; }

  void header(const std::string& name, uint64_t bytes, uint32_t crc) {
    Placed p{prefix_ + "/" + name, position(), bytes, crc};
    const bool big = bytes >= kBig;
    uint64_t extra = (big ? 20 : 0) + 4;
    const uint64_t unpadded = p.header + 30 + p.name.size() + extra;
    const uint64_t padding = (kAlignment - unpadded % kAlignment) % kAlignment;
    extra += padding;
    put<uint32_t>(out, 0x04034b50);
    common(p, bytes);
    put<uint16_t>(out, static_cast<uint16_t>(p.name.size()));
    put<uint16_t>(out, static_cast<uint16_t>(extra));
    out += p.name;
    if (big) {
      put<uint16_t>(out, 1);
      put<uint16_t>(out, 16);
      put<uint64_t>(out, bytes);
      put<uint64_t>(out, bytes);
    }
    out += "FB";
    put<uint16_t>(out, static_cast<uint16_t>(padding));
    out.append(padding, 'Z');
    records_.push_back(std::move(p));
  }

  void record(const std::string& name, std::string_view bytes) {
    header(name, bytes.size(), crc32_update(0, as_span(bytes)));
    out += bytes;
  }

  void directory() {
    const uint64_t begin = position();
    for (const Placed& p : records_) central(p);
    const uint64_t bytes = position() - begin;
    if (begin >= kBig) end64(begin, bytes);
    put<uint32_t>(out, 0x06054b50);
    put<uint32_t>(out, 0);  // disk numbers
    put<uint16_t>(out, static_cast<uint16_t>(records_.size()));
    put<uint16_t>(out, static_cast<uint16_t>(records_.size()));
    put<uint32_t>(out, static_cast<uint32_t>(bytes));
    put<uint32_t>(out, static_cast<uint32_t>(std::min(begin, kBig)));
    put<uint16_t>(out, 0);
  }

  std::string out;
  uint64_t skipped = 0;

 private:
  std::string prefix_;
  std::vector<Placed> records_;

  // Version, flags, method, time, date, CRC and both sizes, which the two kinds of header share.
  void common(const Placed& p, uint64_t bytes) {
    put<uint16_t>(out, 0);
    put<uint16_t>(out, 0x0800);  // names are UTF-8
    put<uint16_t>(out, 0);
    put<uint32_t>(out, 0);
    put<uint32_t>(out, p.crc);
    put<uint32_t>(out, static_cast<uint32_t>(std::min(bytes, kBig)));
    put<uint32_t>(out, static_cast<uint32_t>(std::min(bytes, kBig)));
  }

  void central(const Placed& p) {
    const bool big = p.bytes >= kBig, far = p.header >= kBig;
    put<uint32_t>(out, 0x02014b50);
    put<uint16_t>(out, 0);
    common(p, p.bytes);
    put<uint16_t>(out, static_cast<uint16_t>(p.name.size()));
    put<uint16_t>(out, static_cast<uint16_t>(big || far ? 4 + (big ? 16 : 0) + (far ? 8 : 0) : 0));
    out.append(10, '\0');  // comment length, disk, attributes
    put<uint32_t>(out, static_cast<uint32_t>(std::min(p.header, kBig)));
    out += p.name;
    if (!big && !far) return;
    put<uint16_t>(out, 1);
    put<uint16_t>(out, static_cast<uint16_t>((big ? 16 : 0) + (far ? 8 : 0)));
    if (big) put<uint64_t>(out, p.bytes), put<uint64_t>(out, p.bytes);
    if (far) put<uint64_t>(out, p.header);
  }

  void end64(uint64_t begin, uint64_t bytes) {
    const uint64_t at = position();
    put<uint32_t>(out, 0x06064b50);
    put<uint64_t>(out, 44);
    put<uint32_t>(out, 45 | 45 << 16);
    put<uint64_t>(out, 0);
    put<uint64_t>(out, records_.size());
    put<uint64_t>(out, records_.size());
    put<uint64_t>(out, bytes);
    put<uint64_t>(out, begin);
    put<uint32_t>(out, 0x07064b50);
    put<uint32_t>(out, 0);
    put<uint64_t>(out, at);
    put<uint32_t>(out, 1);
  }
};

// Every storage of a value, by the address of its bytes; views of one storage share it.
struct Storages {
  std::unordered_map<const void*, std::string> keys;
  std::vector<std::span<const std::byte>> bytes;

  std::string key(const TensorValue& tensor) {
    if (tensor.storage.empty()) {  // nothing to share
      bytes.push_back(tensor.storage);
      return std::to_string(bytes.size() - 1);
    }
    const auto [it, added] = keys.emplace(tensor.storage.data(), std::to_string(bytes.size()));
    if (added) bytes.push_back(tensor.storage);
    PONTE_ASSERT(bytes[std::stoul(it->second)].size() == tensor.storage.size());
    return it->second;
  }
};

std::string pickle_of_tensor(DType dtype, std::span<const int64_t> shape) {
  TensorValue v;
  v.dtype = dtype;
  v.shape.assign(shape.begin(), shape.end());
  v.strides.assign(shape.size(), 1);
  for (size_t i = shape.size(); i-- > 1;) v.strides[i - 1] = checked_multiply(v.strides[i], std::max<int64_t>(shape[i], 1), "tensor");
  v.storage_elements = checked_numel(shape, "tensor");
  return write_pickle(Value::tensor(std::move(v)), {.storage_key = [](const TensorValue&) { return std::string("0"); }});
}

}  // namespace

std::string write_torch_archive(const Value& value, std::string_view prefix) {
  Storages storages;
  const std::string pickle = write_pickle(value, {.storage_key = [&](const TensorValue& v) { return storages.key(v); }});
  ZipWriter zip{std::string(prefix)};
  zip.record("data.pkl", pickle);
  zip.record(".format_version", "1");
  zip.record(".storage_alignment", "64");
  zip.record("byteorder", "little");
  for (size_t i = 0; i < storages.bytes.size(); ++i)
    zip.record("data/" + std::to_string(i), {reinterpret_cast<const char*>(storages.bytes[i].data()), storages.bytes[i].size()});
  zip.record("version", "3\n");
  zip.directory();
  return std::move(zip.out);
}

void save_torch_file(const fs::path& file, const Value& value) { write_file_atomically(file, write_torch_archive(value)); }

TensorArchiveParts render_tensor_archive(DType dtype, std::span<const int64_t> shape, uint32_t data_crc) {
  const uint64_t bytes = static_cast<uint64_t>(checked_multiply(checked_numel(shape, "tensor"), dtype_bytes(dtype), "tensor"));
  ZipWriter zip("archive");
  zip.record("data.pkl", pickle_of_tensor(dtype, shape));
  zip.record(".format_version", "1");
  zip.record(".storage_alignment", "64");
  zip.record("byteorder", "little");
  zip.record("version", "3\n");
  zip.header("data/0", bytes, data_crc);
  TensorArchiveParts parts;
  parts.head = std::move(zip.out);
  zip.out.clear();
  zip.skipped = parts.head.size() + bytes;
  zip.directory();
  parts.tail = std::move(zip.out);
  return parts;
}

TensorArchive plan_tensor_archive(DType dtype, std::span<const int64_t> shape) {
  const TensorArchiveParts parts = render_tensor_archive(dtype, shape, 0);
  TensorArchive plan;
  plan.data_offset = parts.head.size();
  plan.data_bytes = static_cast<uint64_t>(checked_numel(shape, "tensor") * dtype_bytes(dtype));
  plan.total_bytes = plan.data_offset + plan.data_bytes + parts.tail.size();
  return plan;
}

}  // namespace ponte
