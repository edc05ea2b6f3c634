// The .npy layout is numpy.lib.format's version 1.0: magic, header length, a Python dict literal padded to 64 bytes, the data.
#include "corpus/index_array.h"

#include <unistd.h>

#include "base/errors.h"

namespace ponte {
namespace {

constexpr std::string_view kMagic("\x93NUMPY\x01\x00", 8);

std::string header_of(std::string_view type, int64_t rows, int64_t columns) {
  const std::string shape = columns == 1 ? format("({},)", rows) : format("({}, {})", rows, columns);
  std::string dict = format("{{'descr': '{}', 'fortran_order': False, 'shape': {}, }}", type, shape);
  const size_t padding = 64 - (kMagic.size() + 2 + dict.size() + 1) % 64;
  dict += std::string(padding % 64, ' ') + "\n";
  std::string out(kMagic);
  out += static_cast<char>(dict.size() & 0xFF);
  out += static_cast<char>(dict.size() >> 8);
  return out + dict;
}

}  // namespace

void IndexArray::save(const fs::path& file, int64_t columns) const {
  const fs::path staging = file.string() + format(".partial-{}", ::getpid());
  OutputFile out(staging);
  out.append(header_of(wide_ ? "<i8" : "<u4", size_ / columns, columns));
  out.append(std::span(data_, static_cast<size_t>(size_ * (wide_ ? 8 : 4))));
  out.close();
  std::error_code error;
  fs::rename(staging, file, error);
  require(!error, "cannot write {}: {}", file, error.message());
}

std::optional<IndexArray> IndexArray::load(const fs::path& file) {
  if (!fs::exists(file)) return std::nullopt;
  IndexArray out;
  out.mapped_.emplace(file);
  const auto bytes = out.mapped_->bytes();
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  require(text.starts_with(kMagic) && text.size() >= 10, "{}: not an index written by an earlier run; delete it to have it built again",
          file);
  const size_t start = 10 + (static_cast<unsigned char>(text[8]) | static_cast<size_t>(static_cast<unsigned char>(text[9])) << 8);
  const std::string_view header = text.substr(10, start - 10);
  out.wide_ = header.find("'<i8'") != header.npos;
  const int64_t width = out.wide_ ? 8 : 4;
  require(
      start <= text.size() && (out.wide_ || header.find("'<u4'") != header.npos) && (text.size() - start) % static_cast<size_t>(width) == 0,
      "{}: damaged index; delete it to have it built again", file);
  out.data_ = bytes.data() + start;
  out.size_ = static_cast<int64_t>(text.size() - start) / width;
  return out;
}

}  // namespace ponte
