// The writer: every item's place is known before any data, so threads write data where it belongs while checksums are computed on the way.
#include <algorithm>
#include <map>
#include <optional>

#include "base/checked.h"
#include "base/writeback.h"
#include "format/crc32.h"
#include "format/torch_dist_metadata.h"

namespace ponte {
namespace {

constexpr uint64_t kAlignment = 64;        // of items in their file, so that data (64-aligned in its archive) is aligned in the file too
constexpr size_t kBlockBytes = 256 << 10;  // checksummed and written while still in the second-level cache

uint64_t aligned(uint64_t offset) { return (offset + kAlignment - 1) / kAlignment * kAlignment; }

struct Piece {
  uint64_t offset = 0, bytes = 0;
  uint32_t crc = 0;
};

struct PlannedChunk {
  size_t tensor = 0;
  std::vector<int64_t> offsets, sizes;
  size_t file = 0;
  uint64_t item = 0;  // offset of the archive in its file
  TensorArchive archive;
  std::vector<Piece> pieces;
};

struct PlannedObject {
  std::string name, archive;
  size_t file = 0;
  uint64_t item = 0;
};

// The CRC of a chunk from those of its pieces, which must tile it exactly.
uint32_t join_pieces(std::vector<Piece>& pieces, uint64_t bytes, std::string_view what) {
  std::sort(pieces.begin(), pieces.end(), [](const Piece& a, const Piece& b) { return a.offset < b.offset; });
  uint64_t end = 0;
  uint32_t crc = 0;
  for (const Piece& p : pieces) {
    require(p.offset == end, "{}: bytes {} to {} were {}", what, std::min(p.offset, end), std::max(p.offset, end),
            p.offset > end ? "never written" : "written twice");
    crc = end == 0 ? p.crc : crc32_joined(crc, p.crc, p.bytes);
    end += p.bytes;
  }
  require(end == bytes, "{}: {} of {} bytes were written", what, end, bytes);
  return crc;
}

std::span<const std::byte> as_span(const std::string& text) { return std::as_bytes(std::span(text.data(), text.size())); }

}  // namespace

struct TorchDistWriter::State {
  fs::path directory;
  TorchDistWriterOptions options;
  std::vector<TensorSpec> tensors;
  std::map<std::string, size_t> tensor_index;
  std::vector<PlannedChunk> chunks;
  std::vector<PlannedObject> objects;
  std::vector<OutputFile> files;
  std::vector<uint64_t> file_bytes;
  std::mutex mutex;  // of every chunk's pieces
  std::optional<EarlyWriteback> writeback;  // ends before the files do
  bool begun = false;

  std::string file_name(size_t file) const { return format("__{}_{}.distcp", options.rank, file); }

  // Room for an item in the emptiest file.
  void place(uint64_t bytes, size_t& file, uint64_t& item) {
    file = static_cast<size_t>(std::min_element(file_bytes.begin(), file_bytes.end()) - file_bytes.begin());
    item = aligned(file_bytes[file]);
    file_bytes[file] = item + bytes;
  }

  DistMetadata metadata() const {
    DistMetadata out;
    for (const TensorSpec& t : tensors) out.tensors.push_back({t.name, t.dtype, t.shape, {}});
    for (const PlannedChunk& c : chunks) {
      out.tensors[c.tensor].chunks.push_back({c.offsets, c.sizes, 0, 0, 0});
      out.items.push_back({tensors[c.tensor].name, c.offsets, {file_name(c.file), c.item, c.archive.total_bytes}});
    }
    for (const PlannedObject& o : objects) {
      out.objects.push_back(o.name);
      out.items.push_back({o.name, std::nullopt, {file_name(o.file), o.item, o.archive.size()}});
    }
    return out;
  }
};

TorchDistWriter::TorchDistWriter(const fs::path& directory, TorchDistWriterOptions options) : state_(std::make_unique<State>()) {
  PONTE_ASSERT(options.files >= 1 && options.rank >= 0);
  state_->directory = directory;
  state_->options = options;
}

TorchDistWriter::~TorchDistWriter() = default;

size_t TorchDistWriter::add_chunk(const TensorSpec& tensor, std::vector<int64_t> offsets, std::vector<int64_t> sizes) {
  State& s = *state_;
  PONTE_ASSERT(!s.begun && offsets.size() == tensor.shape.size() && sizes.size() == tensor.shape.size());
  const auto [it, added] = s.tensor_index.emplace(tensor.name, s.tensors.size());
  if (added) s.tensors.push_back(tensor);
  const TensorSpec& known = s.tensors[it->second];
  PONTE_ASSERT(known.dtype == tensor.dtype && known.shape == tensor.shape);
  PlannedChunk chunk;
  chunk.tensor = it->second;
  chunk.offsets = std::move(offsets);
  chunk.sizes = std::move(sizes);
  chunk.archive = plan_tensor_archive(tensor.dtype, chunk.sizes);
  s.chunks.push_back(std::move(chunk));
  return s.chunks.size() - 1;
}

size_t TorchDistWriter::add_tensor(const TensorSpec& tensor) { return add_chunk(tensor, std::vector<int64_t>(tensor.shape.size(), 0), tensor.shape); }

void TorchDistWriter::add_object(std::string name, const Value& value) { add_object_bytes(std::move(name), write_torch_archive(value)); }

void TorchDistWriter::add_object_bytes(std::string name, std::string archive) {
  PONTE_ASSERT(!state_->begun);
  state_->objects.push_back({std::move(name), std::move(archive), 0, 0});
}

void TorchDistWriter::begin() {
  State& s = *state_;
  PONTE_ASSERT(!s.begun);
  s.begun = true;
  s.file_bytes.assign(static_cast<size_t>(s.options.files), 0);
  for (PlannedObject& o : s.objects) s.place(o.archive.size(), o.file, o.item);
  for (PlannedChunk& c : s.chunks) s.place(c.archive.total_bytes, c.file, c.item);
  for (size_t i = 0; i < s.file_bytes.size(); ++i) {
    s.files.emplace_back(s.directory / s.file_name(i));
    s.files.back().preallocate(s.file_bytes[i]);
  }
  s.writeback.emplace();
}

size_t TorchDistWriter::chunks() const { return state_->chunks.size(); }
uint64_t TorchDistWriter::chunk_bytes(size_t chunk) const { return state_->chunks.at(chunk).archive.data_bytes; }

uint64_t TorchDistWriter::total_bytes() const {
  uint64_t out = 0;
  for (const uint64_t bytes : state_->file_bytes) out += bytes;
  return out;
}

void TorchDistWriter::write(size_t chunk, uint64_t offset, std::span<const std::byte> bytes) {
  State& s = *state_;
  PONTE_ASSERT(s.begun && chunk < s.chunks.size());
  PlannedChunk& c = s.chunks[chunk];
  PONTE_ASSERT(bytes.size() <= c.archive.data_bytes && offset <= c.archive.data_bytes - bytes.size());
  if (bytes.empty()) return;
  Piece piece{offset, bytes.size(), 0};
  uint64_t at = c.item + c.archive.data_offset + offset;
  for (size_t done = 0; done < bytes.size(); done += kBlockBytes) {
    const auto block = bytes.subspan(done, std::min(kBlockBytes, bytes.size() - done));
    piece.crc = crc32_update(piece.crc, block);
    s.files[c.file].write_at(at + done, block);
    s.writeback->wrote(s.files[c.file], block.size());
  }
  const std::lock_guard lock(s.mutex);
  c.pieces.push_back(piece);
}

std::string TorchDistWriter::finish_rank() {
  State& s = *state_;
  PONTE_ASSERT(s.begun);
  for (PlannedChunk& c : s.chunks) {
    const TensorSpec& t = s.tensors[c.tensor];
    const uint32_t crc = join_pieces(c.pieces, c.archive.data_bytes, format("{}: tensor '{}'", s.file_name(c.file), t.name));
    const TensorArchiveParts parts = render_tensor_archive(t.dtype, c.sizes, crc);
    PONTE_ASSERT(parts.head.size() == c.archive.data_offset && parts.head.size() + c.archive.data_bytes + parts.tail.size() == c.archive.total_bytes);
    s.files[c.file].write_at(c.item, as_span(parts.head));
    s.files[c.file].write_at(c.item + c.archive.data_offset + c.archive.data_bytes, as_span(parts.tail));
  }
  for (const PlannedObject& o : s.objects) s.files[o.file].write_at(o.item, as_span(o.archive));
  s.writeback.reset();
  s.files.clear();
  return render_dist_metadata(s.metadata());
}

void TorchDistWriter::finish() {
  const std::string part = finish_rank();
  write_dist_metadata(state_->directory, {&part, 1});
}

void write_dist_metadata(const fs::path& directory, std::span<const std::string> parts) {
  DistMetadata all;
  for (const std::string& part : parts) merge_dist_metadata(all, parse_dist_metadata(as_span(part), "part of .metadata"));
  for (const TorchDistTensor& t : all.tensors) check_cover(t, directory.string());
  OutputFile file(directory / ".metadata");
  file.append(parts.size() == 1 ? parts[0] : render_dist_metadata(all));
}

}  // namespace ponte
