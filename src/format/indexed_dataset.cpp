// Reading: everything is a view of the two mappings. Writing is in indexed_dataset_writer.cpp.
#include "format/indexed_dataset.h"

#include <sys/mman.h>

#include <algorithm>

#include "base/checked.h"
#include "base/errors.h"
#include "base/hash.h"
#include "format/indexed_dataset_header.h"

namespace ponte {
namespace {

DType dtype_of_code(uint8_t code, const fs::path& file) {
  constexpr DType codes[] = {DType::u8, DType::i8, DType::i16, DType::i32, DType::i64, DType::f64, DType::f32, DType::u16};
  require(code >= 1 && code <= std::size(codes), "{}: dtype code {}, wanted 1 to 8", file, static_cast<int>(code));
  const DType dtype = codes[code - 1];
  require(!is_floating(dtype), "{}: holds {}, wanted token ids (an integer type)", file, safetensors_name(dtype));
  return dtype;
}

template <class T>
T take(std::span<const std::byte> bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof(T));
  return value;
}

MappedFile map_member(const fs::path& prefix, const fs::path& file) {
  require(fs::exists(file), "{}: not found; a dataset prefix names a pair {} and {}", file, bin_path(prefix).filename(),
          idx_path(prefix).filename());
  return MappedFile(file);
}

template <class T>
void widen(const std::byte* in, std::span<int32_t> out) {
  for (size_t i = 0; i < out.size(); ++i) {
    T value;
    std::memcpy(&value, in + i * sizeof(T), sizeof(T));
    out[i] = static_cast<int32_t>(value);
  }
}

void advise(std::span<const std::byte> bytes, int advice) {
  if (!bytes.empty()) ::madvise(const_cast<std::byte*>(bytes.data()), bytes.size(), advice);  // a hint: failure costs speed only
}

void widen_as(DType dtype, const std::byte* in, std::span<int32_t> out) {
  switch (dtype) {
    case DType::u8: return widen<uint8_t>(in, out);
    case DType::i8: return widen<int8_t>(in, out);
    case DType::i16: return widen<int16_t>(in, out);
    case DType::u16: return widen<uint16_t>(in, out);
    case DType::i64: return widen<int64_t>(in, out);
    default: std::memcpy(out.data(), in, out.size_bytes());
  }
}

}  // namespace

DType token_dtype(int64_t vocab_size) { return vocab_size < 65500 ? DType::u16 : DType::i32; }

// Appended, never replaced: "data/c4.v2" is a prefix of its own.
fs::path bin_path(const fs::path& prefix) { return prefix.string() + ".bin"; }
fs::path idx_path(const fs::path& prefix) { return prefix.string() + ".idx"; }

IndexedDataset::IndexedDataset(const fs::path& prefix, SequenceModes modes, IndexedDatasetAccess access)
    : prefix_(prefix), idx_(map_member(prefix, idx_path(prefix))), bin_(map_member(prefix, bin_path(prefix))), token_access_(access.tokens) {
  if (access.index == Access::random) advise(idx_.bytes(), MADV_RANDOM);
  if (access.tokens == Access::random) advise(bin_.bytes(), MADV_RANDOM);
  parse_index(modes);
}

void IndexedDataset::want(int64_t byte, int64_t bytes) const {
  constexpr int64_t kPage = 4096;
  const int64_t first = byte / kPage * kPage;
  if (token_access_ == Access::random && byte + bytes - first > kPage)
    advise(bin_.bytes().subspan(static_cast<size_t>(first), static_cast<size_t>(byte + bytes - first)), MADV_WILLNEED);
}

void IndexedDataset::parse_index(SequenceModes modes) {
  const auto bytes = idx_.bytes();
  const fs::path& file = idx_.path();
  require(bytes.size() >= kIndexHeaderBytes, "{}: {} bytes, shorter than an index header ({})", file, bytes.size(), kIndexHeaderBytes);
  require(std::memcmp(bytes.data(), kIndexMagic, sizeof kIndexMagic) == 0, "{}: not a Megatron index (its first bytes are not MMIDIDX)",
          file);
  const uint64_t version = take<uint64_t>(bytes, 9);
  require(version == 1, "{}: index version {}, wanted 1", file, version);
  dtype_ = dtype_of_code(take<uint8_t>(bytes, 17), file);
  sequences_ = take<int64_t>(bytes, 18);
  boundaries_ = take<int64_t>(bytes, 26);
  require(sequences_ >= 0 && boundaries_ >= 0, "{}: negative count of sequences ({}) or documents ({})", file, sequences_, boundaries_);
  require(boundaries_ >= 1, "{}: no document boundaries, wanted at least the leading 0", file);
  const int64_t per_sequence = modes == SequenceModes::present ? 13 : 12;
  const int64_t wanted =
      checked_add(checked_add(kIndexHeaderBytes, checked_multiply(sequences_, per_sequence, file.string()), file.string()),
                  checked_multiply(boundaries_, 8, file.string()), file.string());
  const auto found = static_cast<int64_t>(bytes.size());
  require(found >= wanted, "{}: truncated: {} bytes, but {} sequences and {} document boundaries need {}", file, found, sequences_,
          boundaries_, wanted);
  // A dataset written with modes and read without them has exactly one byte more per sequence.
  require(found == wanted || (modes == SequenceModes::absent && found == wanted + sequences_),
          "{}: {} bytes, but {} sequences and {} document boundaries need {}", file, found, sequences_, boundaries_, wanted);
  lengths_ = bytes.data() + kIndexHeaderBytes;
  pointers_ = lengths_ + sequences_ * 4;
  documents_ = pointers_ + sequences_ * 8;
  modes_ = modes == SequenceModes::present ? documents_ + boundaries_ * 8 : nullptr;

  require(document_index(0) == 0 && document_index(boundaries_ - 1) == sequences_, "{}: documents span sequences {} to {}, wanted 0 to {}",
          file, document_index(0), document_index(boundaries_ - 1), sequences_);
  const auto bin_bytes = static_cast<int64_t>(bin_.bytes().size());
  const int64_t width = dtype_bytes(dtype_);
  int64_t end = 0;
  if (sequences_ > 0)
    end = checked_add(sequence_pointer(sequences_ - 1), checked_multiply(sequence_length(sequences_ - 1), width, file.string()),
                      file.string());
  require(end >= 0 && end <= bin_bytes, "{}: {} bytes, but {} places its last sequence at bytes up to {}", bin_.path(), bin_bytes,
          file.filename(), end);
  require(bin_bytes % width == 0, "{}: {} bytes, not a whole number of {}-byte ids", bin_.path(), bin_bytes, width);
  total_tokens_ = bin_bytes / width;
}

void IndexedDataset::read(int64_t sequence, int64_t offset, std::span<int32_t> out) const {
  require(sequence >= 0 && sequence < sequences_, "{}: sequence {} of {}", prefix_, sequence, sequences_);
  const int64_t length = sequence_length(sequence), pointer = sequence_pointer(sequence), width = dtype_bytes(dtype_);
  const auto count = static_cast<int64_t>(out.size());
  require(offset >= 0 && offset <= length && count <= length - offset, "{}: tokens {} to {} of sequence {}, which has {}", prefix_, offset,
          offset + count, sequence, length);
  const auto bin_bytes = static_cast<int64_t>(bin_.bytes().size());
  require(pointer >= 0 && pointer <= bin_bytes && length <= (bin_bytes - pointer) / width,
          "{}: sequence {} lies at bytes {} to {} of a .bin of {}", idx_.path(), sequence, pointer, pointer + length * width, bin_bytes);
  if (count == 0) return;
  want(pointer + offset * width, count * width);
  widen_as(dtype_, bin_.bytes().data() + pointer + offset * width, out);
}

void IndexedDataset::read_flat(int64_t first, std::span<int32_t> out) const {
  const auto count = static_cast<int64_t>(out.size());
  require(first >= 0 && count <= total_tokens_ && first <= total_tokens_ - count, "{}: tokens {} to {} of {}", bin_.path(), first,
          first + count, total_tokens_);
  if (count == 0) return;
  want(first * dtype_bytes(dtype_), count * dtype_bytes(dtype_));
  widen_as(dtype_, bin_.bytes().data() + first * dtype_bytes(dtype_), out);
}

std::vector<int32_t> IndexedDataset::sequence(int64_t i) const {
  require(i >= 0 && i < sequences_, "{}: sequence {} of {}", prefix_, i, sequences_);
  // Bounded before it is allocated: a damaged length must not ask for gigabytes.
  require(sequence_length(i) >= 0 && sequence_length(i) <= total_tokens_, "{}: sequence {} has length {}, but the .bin holds {} tokens",
          idx_.path(), i, sequence_length(i), total_tokens_);
  std::vector<int32_t> out(static_cast<size_t>(sequence_length(i)));
  read(i, 0, out);
  return out;
}

void IndexedDataset::verify() const {
  const fs::path& file = idx_.path();
  const int64_t width = dtype_bytes(dtype_);
  int64_t expected = 0;
  for (int64_t i = 0; i < sequences_; ++i) {
    const int64_t length = sequence_length(i), pointer = sequence_pointer(i);
    require(length >= 0, "{}: sequence {} has length {}", file, i, length);
    require(pointer == expected, "{}: sequence {} starts at byte {}, wanted {} (the end of the one before it)", file, i, pointer, expected);
    expected = checked_add(expected, length * width, file.string());
  }
  require(expected == total_tokens_ * width, "{}: {} bytes, but the sequences of {} end at {}", bin_.path(), total_tokens_ * width,
          file.filename(), expected);
  for (int64_t i = 1; i < boundaries_; ++i)
    require(document_index(i) >= document_index(i - 1) && document_index(i) <= sequences_,
            "{}: document {} ends at sequence {}, before its start {} or beyond {}", file, i - 1, document_index(i), document_index(i - 1),
            sequences_);
}

std::string IndexedDataset::fingerprint() const {
  constexpr size_t kSample = 4 << 10;  // a page or two, so that a thousand files open at once
  ContentHash hash;
  const auto whole_or_ends = [&](std::span<const std::byte> bytes) {
    const uint64_t size = bytes.size();
    hash.update(std::as_bytes(std::span(&size, 1)));
    if (bytes.size() <= 3 * kSample) return hash.update(bytes);
    hash.update(bytes.first(kSample));
    hash.update(bytes.subspan(bytes.size() / 2, kSample));
    hash.update(bytes.last(kSample));
  };
  whole_or_ends(idx_.bytes());
  whole_or_ends(bin_.bytes());
  return hash.hex();
}

}  // namespace ponte
