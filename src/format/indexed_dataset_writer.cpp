// Writing: ids go straight to .bin, lengths and boundaries to spool files, and .idx is streamed together at the end, so memory does not
// grow with the corpus.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/checked.h"
#include "base/errors.h"
#include "format/indexed_dataset.h"
#include "format/indexed_dataset_header.h"

namespace ponte {
namespace {

constexpr size_t kBufferBytes = 1 << 20;

uint8_t dtype_code(DType dtype) {
  switch (dtype) {
    case DType::u16: return 8;
    case DType::i32: return 4;
    default: fail("a tokenised corpus holds u16 or i32 ids, not {}", safetensors_name(dtype));
  }
}

// An append-only file that can be cut back to a size and gone on with.
class SpoolFile {
 public:
  SpoolFile(const fs::path& path, std::optional<int64_t> resume_bytes) : path_(path) {
    fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | (resume_bytes ? 0 : O_TRUNC), 0644);
    if (fd_ < 0) fail_errno(format("cannot open {}", path));
    if (!resume_bytes) return;
    struct stat info;
    if (::fstat(fd_, &info) != 0) fail_errno(format("cannot read {}", path));
    require(info.st_size >= *resume_bytes, "{}: {} bytes, but the interrupted run had written {}", path, info.st_size, *resume_bytes);
    if (::ftruncate(fd_, *resume_bytes) != 0) fail_errno(format("cannot size {}", path));
    written_ = *resume_bytes;
  }
  SpoolFile(SpoolFile&& other) = delete;
  ~SpoolFile() {
    if (fd_ >= 0) ::close(fd_);
  }
  void append(std::span<const std::byte> bytes) {
    if (buffer_.size() + bytes.size() > kBufferBytes) drain();
    if (bytes.size() >= kBufferBytes) return put(bytes);
    buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
  }
  template <class T>
  void append_value(T value) {
    append(std::as_bytes(std::span(&value, 1)));
  }
  void drain() {
    put(buffer_);
    buffer_.clear();
  }
  void flush() {
    drain();
    if (::fdatasync(fd_) != 0) fail_errno(format("cannot flush {} to disk", path_));
  }
  // Calls body with consecutive pieces of what was written.
  template <class Body>
  void stream(const Body& body) {
    drain();
    std::vector<std::byte> piece(kBufferBytes);
    for (int64_t at = 0; at < written_;) {
      const size_t wanted = std::min<size_t>(piece.size(), static_cast<size_t>(written_ - at));
      for (size_t have = 0; have < wanted;) {
        const ssize_t n = ::pread(fd_, piece.data() + have, wanted - have, at + static_cast<off_t>(have));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) fail_errno(format("cannot read back {}", path_));
        have += static_cast<size_t>(n);
      }
      body(std::span<const std::byte>(piece.data(), wanted));
      at += static_cast<int64_t>(wanted);
    }
  }
  const fs::path& path() const { return path_; }

 private:
  void put(std::span<const std::byte> bytes) {
    for (size_t done = 0; done < bytes.size();) {
      const ssize_t n = ::pwrite(fd_, bytes.data() + done, bytes.size() - done, written_);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) fail_errno(format("cannot write {}", path_));
      done += static_cast<size_t>(n);
      written_ += n;
    }
  }
  fs::path path_;
  int fd_ = -1;
  int64_t written_ = 0;
  std::vector<std::byte> buffer_;
};

template <class T>
std::optional<int64_t> bytes_of(const std::optional<IndexedDatasetWriter::Position>& at, T field, int64_t width) {
  return at ? std::optional(checked_multiply((*at).*field, width, "resume position")) : std::nullopt;
}

}  // namespace

struct IndexedDatasetWriter::Files {
  SpoolFile ids, lengths, documents;
};

IndexedDatasetWriter::IndexedDatasetWriter(const fs::path& prefix, DType dtype, std::optional<Position> at)
    : prefix_(prefix), dtype_(dtype) {
  dtype_code(dtype);
  files_.reset(new Files{{bin_path(prefix), bytes_of(at, &Position::tokens, dtype_bytes(dtype))},
                         {prefix.string() + ".lengths", bytes_of(at, &Position::sequences, 4)},
                         {prefix.string() + ".documents", bytes_of(at, &Position::documents, 8)}});
  if (at) position_ = *at;
}

IndexedDatasetWriter::~IndexedDatasetWriter() = default;

void IndexedDatasetWriter::add_document(std::span<const int32_t> tokens, std::span<const int32_t> lengths) {
  const auto per_document = static_cast<int32_t>(lengths.size());
  if (dtype_ == DType::i32) return add_encoded(std::as_bytes(tokens), lengths, std::span(&per_document, 1));
  std::vector<uint16_t> narrow(tokens.size());
  for (size_t i = 0; i < tokens.size(); ++i) {
    require(tokens[i] >= 0 && tokens[i] <= 0xFFFF, "{}: token id {} does not fit 16 bits", bin_path(prefix_), tokens[i]);
    narrow[i] = static_cast<uint16_t>(tokens[i]);
  }
  add_encoded(std::as_bytes(std::span<const uint16_t>(narrow)), lengths, std::span(&per_document, 1));
}

void IndexedDatasetWriter::add_encoded(std::span<const std::byte> ids, std::span<const int32_t> sequence_lengths,
                                       std::span<const int32_t> sequences_per_document) {
  int64_t tokens = 0, sequences = 0;
  for (int32_t length : sequence_lengths) tokens += length;
  for (int32_t count : sequences_per_document) sequences += count;
  PONTE_ASSERT(tokens * dtype_bytes(dtype_) == static_cast<int64_t>(ids.size()) &&
               sequences == static_cast<int64_t>(sequence_lengths.size()));
  files_->ids.append(ids);
  files_->lengths.append(std::as_bytes(sequence_lengths));
  for (int32_t count : sequences_per_document) files_->documents.append_value<int64_t>(position_.sequences += count);
  position_.tokens += tokens;
  position_.documents += static_cast<int64_t>(sequences_per_document.size());
}

void IndexedDatasetWriter::add_dataset(const IndexedDataset& dataset) {
  require(dataset.dtype() == dtype_, "{}: ids are {}, wanted {} as in {}", dataset.prefix(), safetensors_name(dataset.dtype()),
          safetensors_name(dtype_), prefix_);
  dataset.verify();
  const int64_t first = position_.sequences;
  const int64_t width = dtype_bytes(dtype_), total = dataset.total_tokens(), piece = static_cast<int64_t>(kBufferBytes);
  std::vector<int32_t> ids(static_cast<size_t>(std::min(piece, total)));
  for (int64_t at = 0; at < total; at += piece) {
    const auto count = static_cast<size_t>(std::min(piece, total - at));
    dataset.read_flat(at, std::span(ids).first(count));
    if (width == 4) {
      files_->ids.append(std::as_bytes(std::span(ids).first(count)));
    } else {
      std::vector<uint16_t> narrow(ids.begin(), ids.begin() + static_cast<int64_t>(count));
      files_->ids.append(std::as_bytes(std::span(narrow)));
    }
  }
  for (int64_t i = 0; i < dataset.sequences(); ++i) files_->lengths.append_value(static_cast<int32_t>(dataset.sequence_length(i)));
  for (int64_t i = 1; i <= dataset.documents(); ++i) files_->documents.append_value<int64_t>(first + dataset.document_index(i));
  position_.tokens += total;
  position_.sequences += dataset.sequences();
  position_.documents += dataset.documents();
}

void IndexedDatasetWriter::flush() {
  files_->ids.flush();
  files_->lengths.flush();
  files_->documents.flush();
}

void IndexedDatasetWriter::finalize() {
  flush();
  SpoolFile idx(idx_path(prefix_), std::nullopt);
  idx.append(std::as_bytes(std::span(kIndexMagic)));
  idx.append_value<uint64_t>(1);
  idx.append_value<uint8_t>(dtype_code(dtype_));
  idx.append_value<int64_t>(position_.sequences);
  idx.append_value<int64_t>(position_.documents + 1);
  files_->lengths.stream([&](std::span<const std::byte> piece) { idx.append(piece); });
  int64_t pointer = 0;
  const int64_t width = dtype_bytes(dtype_);
  files_->lengths.stream([&](std::span<const std::byte> piece) {  // whole lengths: file and buffer are multiples of 4
    for (size_t i = 0; i + 4 <= piece.size(); i += 4) {
      int32_t length;
      std::memcpy(&length, piece.data() + i, 4);
      idx.append_value<int64_t>(pointer);
      pointer += length * width;
    }
  });
  idx.append_value<int64_t>(0);
  files_->documents.stream([&](std::span<const std::byte> piece) { idx.append(piece); });
  idx.flush();
}

void IndexedDatasetWriter::remove_spools() {
  fs::remove(files_->lengths.path());
  fs::remove(files_->documents.path());
}

}  // namespace ponte
