// Reading stored zips (zip64 and data descriptors included) and torch.save archives.
#include "format/torch_zip.h"

#include <algorithm>
#include <cstring>
#include <unordered_map>

#include "base/checked.h"
#include "format/crc32.h"

namespace ponte {
namespace {

constexpr uint32_t kLocal = 0x04034b50, kCentral = 0x02014b50, kEnd = 0x06054b50, kEnd64 = 0x06064b50, kLocator64 = 0x07064b50;

// Little-endian fields at offsets inside a checked range.
class Fields {
 public:
  Fields(std::span<const std::byte> bytes, std::string_view origin) : bytes_(bytes), origin_(origin) {}

  template <class T>
  T at(uint64_t offset) const {
    require(sizeof(T) <= bytes_.size() && offset <= bytes_.size() - sizeof(T), "{}: zip record at byte {} is past the end of {} bytes", origin_, offset,
            bytes_.size());
    T v;
    std::memcpy(&v, bytes_.data() + offset, sizeof v);
    return v;
  }
  uint16_t u16(uint64_t o) const { return at<uint16_t>(o); }
  uint32_t u32(uint64_t o) const { return at<uint32_t>(o); }
  uint64_t u64(uint64_t o) const { return at<uint64_t>(o); }

  std::string text(uint64_t offset, uint64_t size) const {
    require(size <= bytes_.size() && offset <= bytes_.size() - size, "{}: zip name at byte {} is past the end", origin_, offset);
    return {reinterpret_cast<const char*>(bytes_.data()) + offset, size};
  }

 private:
  std::span<const std::byte> bytes_;
  std::string_view origin_;
};

struct Directory {
  uint64_t entries = 0, offset = 0, bytes = 0;
};

Directory find_directory(std::span<const std::byte> archive, const Fields& f, std::string_view origin) {
  require(archive.size() >= 22, "{}: {} bytes are too few for a zip archive", origin, archive.size());
  const uint64_t lowest = archive.size() > 22 + 65535 ? archive.size() - 22 - 65535 : 0;
  uint64_t end = archive.size() - 22;
  while (f.u32(end) != kEnd || end + 22 + f.u16(end + 20) != archive.size()) {
    require(end > lowest, "{}: not a zip archive (no end record): truncated, or not written by torch.save", origin);
    --end;
  }
  Directory d{f.u16(end + 10), f.u32(end + 16), f.u32(end + 12)};
  uint64_t directory_end = end;
  const bool needs64 = d.entries == 0xffff || d.offset == 0xffffffff || d.bytes == 0xffffffff;
  if (end >= 20 && f.u32(end - 20) == kLocator64) {
    const uint64_t end64 = f.u64(end - 20 + 8);
    require(end64 < end && f.u32(end64) == kEnd64, "{}: zip64 end record not found at byte {}", origin, end64);
    d = {f.u64(end64 + 32), f.u64(end64 + 48), f.u64(end64 + 40)};
    directory_end = end64;
  } else {
    require(!needs64, "{}: zip64 end record is missing", origin);
  }
  require(d.bytes <= directory_end && d.offset == directory_end - d.bytes, "{}: zip directory of {} bytes at byte {} does not end at byte {}", origin, d.bytes,
          d.offset, directory_end);
  require(d.entries <= d.bytes / 46, "{}: zip directory of {} bytes cannot hold {} entries", origin, d.bytes, d.entries);
  return d;
}

struct Entry {
  ZipRecord record;
  uint64_t header = 0;  // of the local header
  uint64_t next = 0;    // central entry
};

// The three 64-bit values an entry may keep in extra field 1, in their fixed order.
void read_zip64(const Fields& f, uint64_t extra, uint64_t extra_bytes, uint64_t& size, uint64_t& packed, uint64_t& header, std::string_view origin) {
  if (size != 0xffffffff && packed != 0xffffffff && header != 0xffffffff) return;
  for (uint64_t at = extra, end = extra + extra_bytes; at + 4 <= end;) {
    const uint64_t id = f.u16(at), length = f.u16(at + 2);
    if (id == 1) {
      uint64_t field = at + 4, field_end = field + length;
      require(field_end <= end, "{}: zip64 field leaves its entry", origin);
      for (uint64_t* value : {&size, &packed, &header}) {
        if (*value != 0xffffffff) continue;
        require(field + 8 <= field_end, "{}: zip64 field of {} bytes is too short", origin, length);
        *value = f.u64(field);
        field += 8;
      }
      return;
    }
    at += 4 + length;
  }
  fail("{}: zip entry without its zip64 sizes", origin);
}

Entry read_entry(const Fields& f, uint64_t at, uint64_t directory_end, std::string_view origin) {
  require(at + 46 <= directory_end && f.u32(at) == kCentral, "{}: zip directory entry at byte {} is damaged", origin, at);
  const uint64_t name_bytes = f.u16(at + 28), extra_bytes = f.u16(at + 30), comment_bytes = f.u16(at + 32);
  Entry e;
  e.next = at + 46 + name_bytes + extra_bytes + comment_bytes;
  require(e.next <= directory_end, "{}: zip directory entry at byte {} leaves the directory", origin, at);
  e.record.name = f.text(at + 46, name_bytes);
  require(f.u16(at + 10) == 0, "{}: zip record '{}' is compressed (method {}); torch.save stores", origin, e.record.name, f.u16(at + 10));
  require((f.u16(at + 8) & 1) == 0, "{}: zip record '{}' is encrypted", origin, e.record.name);
  e.record.crc = f.u32(at + 16);
  uint64_t packed = f.u32(at + 20);
  e.record.bytes = f.u32(at + 24);
  e.header = f.u32(at + 42);
  read_zip64(f, at + 46 + name_bytes, extra_bytes, e.record.bytes, packed, e.header, origin);
  require(packed == e.record.bytes, "{}: stored zip record '{}' has sizes {} and {}", origin, e.record.name, packed, e.record.bytes);
  return e;
}

// The local header must tell the same story. With a data descriptor (bit 3) it has neither sizes nor CRC.
void locate(const Fields& f, Entry& e, uint64_t directory, std::string_view origin) {
  ZipRecord& r = e.record;
  require(e.header < directory && f.u32(e.header) == kLocal, "{}: zip record '{}' has no header at byte {}", origin, r.name, e.header);
  const uint64_t name_bytes = f.u16(e.header + 26), extra_bytes = f.u16(e.header + 28);
  require(name_bytes == r.name.size() && f.text(e.header + 30, name_bytes) == r.name, "{}: zip record '{}' has another name in its header", origin, r.name);
  require(f.u16(e.header + 8) == 0, "{}: zip record '{}' is compressed", origin, r.name);
  r.offset = e.header + 30 + name_bytes + extra_bytes;
  require(r.offset <= directory && r.bytes <= directory - r.offset, "{}: zip record '{}' of {} bytes at byte {} runs into the directory", origin,
          r.name, r.bytes, r.offset);
  if ((f.u16(e.header + 6) & 8) != 0) return;
  uint64_t size = f.u32(e.header + 22), packed = f.u32(e.header + 18), none = 0;
  read_zip64(f, e.header + 30 + name_bytes, extra_bytes, size, packed, none, origin);
  require(size == r.bytes && packed == r.bytes && f.u32(e.header + 14) == r.crc,
          "{}: zip record '{}' has sizes or CRC in its header that its directory lacks", origin, r.name);
}

}  // namespace

std::vector<ZipRecord> read_zip(std::span<const std::byte> archive, std::string_view origin) {
  const Fields f(archive, origin);
  const Directory directory = find_directory(archive, f, origin);
  const uint64_t directory_end = directory.offset + directory.bytes;
  std::vector<Entry> entries;
  uint64_t at = directory.offset;
  for (uint64_t i = 0; i < directory.entries; ++i) {
    entries.push_back(read_entry(f, at, directory_end, origin));
    at = entries.back().next;
    locate(f, entries.back(), directory.offset, origin);
  }
  require(at == directory_end, "{}: zip directory holds more than its {} entries", origin, directory.entries);
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.header < b.header; });
  for (size_t i = 1; i < entries.size(); ++i) {
    const ZipRecord& before = entries[i - 1].record;
    require(before.offset + before.bytes <= entries[i].header, "{}: zip records '{}' and '{}' overlap", origin, before.name, entries[i].record.name);
  }
  std::string prefix;
  std::vector<ZipRecord> out;
  for (Entry& e : entries) {
    const size_t slash = e.record.name.find('/');
    require(slash != std::string::npos, "{}: zip record '{}' lies outside the archive's folder", origin, e.record.name);
    if (out.empty()) prefix = e.record.name.substr(0, slash);
    require(e.record.name.compare(0, slash, prefix) == 0 && prefix.size() == slash, "{}: zip record '{}' lies outside '{}/'", origin, e.record.name, prefix);
    e.record.name.erase(0, slash + 1);
    out.push_back(std::move(e.record));
  }
  std::vector<std::string_view> names;
  for (const ZipRecord& r : out) names.push_back(r.name);
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  require(twice == names.end(), "{}: two zip records named '{}'", origin, twice == names.end() ? "" : *twice);
  return out;
}

Value read_torch_archive(std::span<const std::byte> archive, std::string_view origin, std::shared_ptr<const void> owner, CheckCrc check) {
  const std::vector<ZipRecord> records = read_zip(archive, origin);
  std::unordered_map<std::string_view, const ZipRecord*> by_name;
  for (const ZipRecord& r : records) by_name.emplace(r.name, &r);
  const auto bytes_of = [&](const ZipRecord& r) { return archive.subspan(r.offset, r.bytes); };
  if (check == CheckCrc::yes) {
    for (const ZipRecord& r : records)
      require(crc32_update(0, bytes_of(r)) == r.crc, "{}: zip record '{}' is damaged (CRC differs)", origin, r.name);
  }
  if (const auto order = by_name.find("byteorder"); order != by_name.end()) {
    const auto bytes = bytes_of(*order->second);
    const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    require(text == "little", "{}: byte order '{}', wanted 'little'", origin, text.substr(0, 20));
  }
  const auto pickle = by_name.find("data.pkl");
  require(pickle != by_name.end(), "{}: no data.pkl: not a torch.save archive", origin);
  PickleReadOptions options;
  options.storage = [&](DType dtype, const std::string& key, int64_t elements) {
    const std::string name = "data/" + key;
    const auto it = by_name.find(name);
    require(it != by_name.end(), "{}: storage '{}' is missing", origin, name);
    const int64_t wanted = checked_multiply(elements, dtype_bytes(dtype), origin);
    require(wanted >= 0 && static_cast<uint64_t>(wanted) == it->second->bytes, "{}: storage '{}' has {} bytes, wanted {}", origin, name,
            it->second->bytes, wanted);
    return StorageReference{dtype, key, elements, bytes_of(*it->second), owner};
  };
  return read_pickle(bytes_of(*pickle->second), origin, options);
}

Value load_torch_file(const fs::path& file, CheckCrc check) {
  auto mapping = std::make_shared<MappedFile>(file);
  return read_torch_archive(mapping->bytes(), file.string(), mapping, check);
}

}  // namespace ponte
