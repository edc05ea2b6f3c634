// Lines of text files: plain, gzip (.gz, several members allowed) or Zstandard (.zst, several frames allowed), read in blocks of whole
// lines. A line ends at "\n", "\r\n" or a lone "\r", as Python's text mode reads it (and so Megatron's preprocessing).
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "base/file.h"

namespace ponte {

enum class Compression { none, gzip, zstd };
Compression compression_of(const fs::path& file);  // by the file's first bytes, not its name

// Bytes of a file, decompressed. UserError on a truncated or damaged stream, naming the file and the offset.
class ByteSource {
 public:
  virtual ~ByteSource() = default;
  // Up to `capacity` bytes; 0 at the end.
  virtual size_t read(char* out, size_t capacity) = 0;
  virtual uint64_t compressed_offset() const = 0;  // bytes of the file consumed so far, for progress
  static std::unique_ptr<ByteSource> open(const fs::path& file);
};

struct LineBlock {
  std::string bytes;       // whole lines, terminators included; the last line of a file may lack one
  uint64_t offset = 0;     // of bytes[0] in the decompressed file
  int64_t first_line = 1;  // number of the first line in the file, from 1
  int64_t lines = 0;
  uint64_t oversized = 0;  // not 0: one line of this many bytes, above the limit, was passed over; `bytes` is empty
};

// Cuts a source into blocks of about `block_bytes`, each made of whole lines. A line above `max_line_bytes` comes as an
// empty block marked oversized, so memory stays bounded whatever the file holds.
class LineReader {
 public:
  LineReader(const fs::path& file, size_t block_bytes, uint64_t max_line_bytes);
  // Begins at a place an earlier reader stopped at: `offset` in the decompressed file is the first byte of line `line`.
  void skip_to(uint64_t offset, int64_t line);
  bool next(LineBlock& block);  // false at the end
  uint64_t compressed_offset() const { return source_->compressed_offset(); }

 private:
  fs::path file_;
  std::unique_ptr<ByteSource> source_;
  size_t block_bytes_;
  uint64_t max_line_bytes_;
  std::string carry_;
  uint64_t offset_ = 0;  // of carry_[0]
  int64_t line_ = 1;
  bool ended_ = false;
  bool fill(std::string& bytes);
  void pass_over(LineBlock& block);
};

// The lines of a block without their terminators.
std::vector<std::string_view> split_lines(std::string_view bytes);

}  // namespace ponte
