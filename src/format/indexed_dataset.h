// Megatron's tokenised corpus: PREFIX.bin holds token ids back to back, PREFIX.idx says where each sequence and document begins.
// Layout of .idx, little-endian (source: megatron/core/datasets/indexed_dataset.py):
//   "MMIDIDX\0\0" | version u64 = 1 | dtype code u8 | sequences n u64 | document boundaries d u64 |
//   sequence_lengths i32[n] | sequence_pointers i64[n], byte offsets into .bin | document_indices i64[d], first 0, last n | [sequence_modes
//   i8[n]]
#pragma once
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "base/file.h"

namespace ponte {

enum class SequenceModes { absent, present };  // multimodal datasets carry one int8 per sequence; nothing in the file says so
// What the kernel is told about a file: `random` reads no page that was not asked for, so that opening a thousand corpora touches a few pages of each.
enum class Access { sequential, random };
struct IndexedDatasetAccess {
  Access index = Access::sequential, tokens = Access::sequential;
};

// The id width Megatron picks: u16 below 65,500 tokens, i32 otherwise.
DType token_dtype(int64_t vocab_size);
fs::path bin_path(const fs::path& prefix);  // PREFIX.bin
fs::path idx_path(const fs::path& prefix);  // PREFIX.idx

// A mapped dataset, opened in constant time: sizes are checked against both files at once, each sequence when it is read, and everything by
// verify(). Reading is const and thread-safe. UserError names the file, what was found and what was wanted.
class IndexedDataset {
 public:
  explicit IndexedDataset(const fs::path& prefix, SequenceModes modes = SequenceModes::absent, IndexedDatasetAccess access = {});

  const fs::path& prefix() const { return prefix_; }
  DType dtype() const { return dtype_; }
  int64_t sequences() const { return sequences_; }
  int64_t documents() const { return boundaries_ - 1; }
  int64_t total_tokens() const { return total_tokens_; }  // tokens in .bin
  int64_t sequence_length(int64_t i) const { return load<int32_t>(lengths_, i); }     // tokens
  int64_t sequence_pointer(int64_t i) const { return load<int64_t>(pointers_, i); }   // bytes
  int64_t document_index(int64_t i) const { return load<int64_t>(documents_, i); }    // first sequence of document i, 0 <= i <= documents()
  int8_t sequence_mode(int64_t i) const { return load<int8_t>(modes_, i); }

  // Tokens [offset, offset + out.size()) of one sequence.
  void read(int64_t sequence, int64_t offset, std::span<int32_t> out) const;
  // Tokens [first, first + out.size()) of the whole .bin, whatever sequences they belong to.
  void read_flat(int64_t first, std::span<int32_t> out) const;
  std::vector<int32_t> sequence(int64_t i) const;

  // Every length, pointer and document boundary; throws on the first that is wrong.
  void verify() const;
  // Hash of the sizes, the dtype and samples of the content: equal for equal data wherever it lies, in constant time.
  std::string fingerprint() const;

 private:
  template <class T>
  T load(const std::byte* base, int64_t i) const {
    T value;  // the header is 34 bytes, so no array is aligned
    std::memcpy(&value, base + i * static_cast<int64_t>(sizeof(T)), sizeof(T));
    return value;
  }
  void parse_index(SequenceModes modes);
  void want(int64_t byte, int64_t bytes) const;  // of .bin: asks for all pages at once

  fs::path prefix_;
  MappedFile idx_, bin_;
  Access token_access_;
  DType dtype_ = DType::i32;
  int64_t sequences_ = 0, boundaries_ = 0, total_tokens_ = 0;
  const std::byte *lengths_ = nullptr, *pointers_ = nullptr, *documents_ = nullptr, *modes_ = nullptr;
};

// Writes PREFIX.bin and PREFIX.idx in constant memory, byte for byte as Megatron's IndexedDatasetBuilder. Lengths and document boundaries
// spool to PREFIX.lengths and PREFIX.documents, so that a stopped writer can go on from a Position whose bytes were flushed.
class IndexedDatasetWriter {
 public:
  struct Position {
    int64_t tokens = 0, sequences = 0, documents = 0;
    bool operator==(const Position&) const = default;
  };
  // `resume_at`: continue files left by an earlier writer, cut back to that position.
  IndexedDatasetWriter(const fs::path& prefix, DType dtype, std::optional<Position> resume_at = std::nullopt);
  ~IndexedDatasetWriter();

  // One document of `lengths.size()` sequences, whose ids follow each other in `tokens`.
  void add_document(std::span<const int32_t> tokens, std::span<const int32_t> lengths);
  // Many documents at once, ids already in dtype(): `sequence_lengths` of all, and for each document the number of its sequences.
  void add_encoded(std::span<const std::byte> ids, std::span<const int32_t> sequence_lengths,
                   std::span<const int32_t> sequences_per_document);
  // All of another dataset, as Megatron's add_index; its dtype must be ours.
  void add_dataset(const IndexedDataset& dataset);

  DType dtype() const { return dtype_; }
  const Position& position() const { return position_; }
  void flush();     // everything up to position() is on disk afterwards
  void finalize();  // writes .idx and flushes everything; may be repeated
  void remove_spools();

 private:
  struct Files;
  std::unique_ptr<Files> files_;
  fs::path prefix_;
  DType dtype_;
  Position position_;
};

}  // namespace ponte
