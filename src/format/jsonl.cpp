#include "format/jsonl.h"

#include <fcntl.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/errors.h"

namespace ponte {
namespace {

constexpr size_t kReadBytes = 1 << 18;

class PlainSource : public ByteSource {
 public:
  explicit PlainSource(const fs::path& file) : file_(file), fd_(::open(file.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (fd_ < 0) fail_errno(format("cannot open {}", file));
    ::posix_fadvise(fd_, 0, 0, POSIX_FADV_SEQUENTIAL);
  }
  ~PlainSource() override { ::close(fd_); }
  size_t read(char* out, size_t capacity) override {
    for (;;) {
      const ssize_t n = ::read(fd_, out, capacity);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) fail_errno(format("cannot read {}", file_));
      offset_ += static_cast<uint64_t>(n);
      return static_cast<size_t>(n);
    }
  }
  uint64_t compressed_offset() const override { return offset_; }

 private:
  fs::path file_;
  int fd_;
  uint64_t offset_ = 0;
};

class GzipSource : public ByteSource {
 public:
  explicit GzipSource(const fs::path& file) : file_(file), input_(file), buffer_(kReadBytes) {
    if (inflateInit2(&stream_, 15 + 16) != Z_OK) fail("{}: cannot start decompression", file);
  }
  ~GzipSource() override { inflateEnd(&stream_); }
  size_t read(char* out, size_t capacity) override {
    capacity = std::min<size_t>(capacity, 1 << 30);  // zlib counts in 32 bits
    stream_.next_out = reinterpret_cast<Bytef*>(out);
    stream_.avail_out = static_cast<uInt>(capacity);
    while (stream_.avail_out == capacity) {
      if (stream_.avail_in == 0 && !refill()) {
        require(!inside_, "{}: truncated gzip stream (ends at byte {})", file_, input_.compressed_offset());
        return 0;
      }
      if (past_first_) skip_padding();
      if (stream_.avail_in == 0) continue;
      inside_ = true;
      const int code = inflate(&stream_, Z_NO_FLUSH);
      if (code == Z_STREAM_END) {  // another member may follow
        inside_ = false;
        past_first_ = true;
        require(inflateReset(&stream_) == Z_OK, "{}: cannot restart decompression", file_);
      } else {
        require(code == Z_OK || code == Z_BUF_ERROR, "{}: damaged gzip stream near byte {}: {}", file_, compressed_offset(),
                stream_.msg ? stream_.msg : "no detail");
      }
    }
    return capacity - stream_.avail_out;
  }
  uint64_t compressed_offset() const override { return input_.compressed_offset() - stream_.avail_in; }

 private:
  // Tapes and block devices leave zeros behind a member; like Python's gzip.
  void skip_padding() {
    for (; !inside_ && stream_.avail_in > 0 && *stream_.next_in == 0; --stream_.avail_in) ++stream_.next_in;
  }
  bool refill() {
    const size_t n = input_.read(buffer_.data(), buffer_.size());
    stream_.next_in = reinterpret_cast<Bytef*>(buffer_.data());
    stream_.avail_in = static_cast<uInt>(n);
    return n > 0;
  }
  fs::path file_;
  PlainSource input_;
  std::vector<char> buffer_;
  z_stream stream_{};
  bool inside_ = false, past_first_ = false;  // a member; the first member
};

class ZstdSource : public ByteSource {
 public:
  explicit ZstdSource(const fs::path& file) : file_(file), input_(file), buffer_(kReadBytes), stream_(ZSTD_createDStream()) {
    require(stream_ != nullptr, "{}: cannot start decompression", file);
  }
  ~ZstdSource() override { ZSTD_freeDStream(stream_); }
  size_t read(char* out, size_t capacity) override {
    ZSTD_outBuffer target{out, capacity, 0};
    while (target.pos == 0) {
      if (pending_.pos == pending_.size) pending_ = {buffer_.data(), input_.read(buffer_.data(), buffer_.size()), 0};
      const bool ended = pending_.size == 0;  // then the call below only hands out what is buffered
      const size_t code = ZSTD_decompressStream(stream_, &target, &pending_);
      require(!ZSTD_isError(code), "{}: damaged zstd stream near byte {}: {}", file_, compressed_offset(), ZSTD_getErrorName(code));
      if (ended && target.pos == 0) {
        require(!inside_, "{}: truncated zstd stream (ends at byte {})", file_, input_.compressed_offset());
        return 0;
      }
      inside_ = code != 0;  // 0: a frame has just ended
    }
    return target.pos;
  }
  uint64_t compressed_offset() const override { return input_.compressed_offset() - (pending_.size - pending_.pos); }

 private:
  fs::path file_;
  PlainSource input_;
  std::vector<char> buffer_;
  ZSTD_DStream* stream_;
  ZSTD_inBuffer pending_{nullptr, 0, 0};
  bool inside_ = false;
};

// One past the last line terminator of bytes[from, size), or npos. A "\r" in last place may be half of "\r\n", so it does not count.
size_t end_of_last_line(std::string_view bytes, size_t from) {
  const std::string_view fresh = bytes.substr(from);
  if (const size_t at = fresh.rfind('\n'); at != fresh.npos) return from + at + 1;
  if (fresh.size() < 2) return fresh.npos;
  const size_t at = fresh.substr(0, fresh.size() - 1).rfind('\r');
  return at == fresh.npos ? at : from + at + 1;
}

// One past the first terminator at or after `from`, or npos; same rule for a final "\r".
size_t end_of_line(std::string_view bytes, size_t from, bool at_end) {
  const size_t at = std::min(bytes.find('\n', from), bytes.find('\r', from));
  if (at == bytes.npos || bytes[at] == '\n') return at == bytes.npos ? at : at + 1;
  if (at + 1 == bytes.size()) return at_end ? at + 1 : bytes.npos;
  return at + (bytes[at + 1] == '\n' ? 2 : 1);
}

int64_t count_lines(std::string_view bytes) {
  int64_t lines = std::count(bytes.begin(), bytes.end(), '\n');
  for (size_t at = bytes.find('\r'); at != bytes.npos; at = bytes.find('\r', at + 1))
    if (at + 1 == bytes.size() || bytes[at + 1] != '\n') ++lines;
  return lines + (!bytes.empty() && bytes.back() != '\n' && bytes.back() != '\r');
}

}  // namespace

Compression compression_of(const fs::path& file) {
  char magic[4] = {};
  const size_t n = PlainSource(file).read(magic, sizeof magic);
  if (n >= 2 && std::memcmp(magic, "\x1f\x8b", 2) == 0) return Compression::gzip;
  const bool skippable = n == 4 && (magic[0] & '\xf0') == '\x50' && std::memcmp(magic + 1, "\x2a\x4d\x18", 3) == 0;
  if (n == 4 && (std::memcmp(magic, "\x28\xb5\x2f\xfd", 4) == 0 || skippable)) return Compression::zstd;
  return Compression::none;
}

std::unique_ptr<ByteSource> ByteSource::open(const fs::path& file) {
  require(fs::is_regular_file(file), "{}: {}", file, fs::exists(file) ? "not a regular file" : "not found");
  switch (compression_of(file)) {
    case Compression::gzip: return std::make_unique<GzipSource>(file);
    case Compression::zstd: return std::make_unique<ZstdSource>(file);
    default: return std::make_unique<PlainSource>(file);
  }
}

LineReader::LineReader(const fs::path& file, size_t block_bytes, uint64_t max_line_bytes)
    : file_(file), source_(ByteSource::open(file)), block_bytes_(block_bytes), max_line_bytes_(max_line_bytes) {}

void LineReader::skip_to(uint64_t offset, int64_t line) {
  PONTE_ASSERT(offset_ == 0 && carry_.empty());
  std::vector<char> scratch(kReadBytes);
  while (offset_ < offset) {
    const size_t n = source_->read(scratch.data(), std::min<uint64_t>(scratch.size(), offset - offset_));
    require(n > 0, "{}: ends at byte {}, before the place to go on from ({}): the file has changed", file_, offset_, offset);
    offset_ += n;
  }
  line_ = line;
}

bool LineReader::fill(std::string& bytes) {
  const size_t have = bytes.size();
  bytes.resize(have + std::max(kReadBytes, block_bytes_));
  const size_t n = ended_ ? 0 : source_->read(bytes.data() + have, bytes.size() - have);
  bytes.resize(have + n);
  if (n == 0) ended_ = true;
  return n > 0;
}

bool LineReader::next(LineBlock& block) {
  block.bytes = std::move(carry_);
  carry_.clear();
  block.offset = offset_;
  block.first_line = line_;
  block.oversized = 0;
  size_t searched = 0, end = std::string::npos;
  for (;;) {
    const size_t found = end_of_last_line(block.bytes, searched);
    if (found != std::string::npos) end = found;
    if (end != std::string::npos && block.bytes.size() >= block_bytes_) break;
    if (end == std::string::npos && block.bytes.size() > max_line_bytes_) {
      pass_over(block);
      return true;
    }
    searched = block.bytes.empty() ? 0 : block.bytes.size() - 1;
    if (!fill(block.bytes)) {
      end = block.bytes.size();
      break;
    }
  }
  carry_.assign(block.bytes, end);
  block.bytes.resize(end);
  block.lines = count_lines(block.bytes);
  offset_ += end;
  line_ += block.lines;
  return end > 0;
}

// The first line of block.bytes is longer than the limit: reads on to its end keeping nothing.
void LineReader::pass_over(LineBlock& block) {
  uint64_t passed = 0;
  for (;;) {
    size_t end = end_of_line(block.bytes, 0, ended_);
    if (end == std::string::npos && ended_) end = block.bytes.size();
    if (end != std::string::npos) {
      passed += end;
      carry_.assign(block.bytes, end);
      break;
    }
    const size_t keep = block.bytes.ends_with('\r') ? 1 : 0;
    passed += block.bytes.size() - keep;
    block.bytes.erase(0, block.bytes.size() - keep);
    fill(block.bytes);
  }
  block.bytes.clear();
  block.bytes.shrink_to_fit();
  block.oversized = passed;
  block.lines = 1;
  offset_ += passed;
  line_ += 1;
}

// The next "\n" and the next "\r" are kept, so that each is searched for once, whichever of them ends the lines.
std::vector<std::string_view> split_lines(std::string_view bytes) {
  std::vector<std::string_view> lines;
  size_t newline = bytes.find('\n'), carriage_return = bytes.find('\r');
  for (size_t at = 0; at < bytes.size();) {
    const size_t end = std::min({newline, carriage_return, bytes.size()});
    lines.push_back(bytes.substr(at, end - at));
    at = end + 1;
    if (end == carriage_return && newline == end + 1) ++at;
    if (newline < at) newline = bytes.find('\n', at);
    if (carriage_return < at) carriage_return = bytes.find('\r', at);
  }
  return lines;
}

}  // namespace ponte
