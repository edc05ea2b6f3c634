#include "corpus/text_blocks.h"

#include <algorithm>

#include "base/errors.h"

namespace ponte {
TextBlockReader::TextBlockReader(BlockOptions options, InputPlace start) : options_(std::move(options)), place_(start) {
  require(place_.file <= static_cast<int64_t>(options_.files.size()), "the place to go on from is in file {} of {}", place_.file,
          options_.files.size());
  for (int64_t i = 0; i < place_.file; ++i) finished_bytes_ += options_.files[static_cast<size_t>(i)].size;
}

TextBlockReader::~TextBlockReader() = default;

bool TextBlockReader::next(TextBlock& block) {
  while (place_.file < static_cast<int64_t>(options_.files.size())) {
    const InputFile& file = options_.files[static_cast<size_t>(place_.file)];
    if (file.fetch && !fs::exists(file.path)) {
      if (options_.may_fetch && !options_.may_fetch()) return false;
      file.fetch();
    }
    format_ = format_of(file.path, options_.preprocess.format);
    block = TextBlock{.file = place_.file, .format = format_, .bytes = {}, .rows = {}, .ends = {}, .bad_rows = {}, .next = {}};
    if (next_in_file(block)) return true;
    finished_bytes_ += file.size;
    lines_.reset();
    columns_.reset();
    place_ = {place_.file + 1, 0, 1};
  }
  return false;
}

bool TextBlockReader::next_in_file(TextBlock& block) {
  if (format_ == InputFormat::text && options_.preprocess.text_unit == TextUnit::file) return whole_file(block);
  if (format_ == InputFormat::parquet) return next_rows(block);
  const fs::path& file = options_.files[static_cast<size_t>(place_.file)].path;
  if (!lines_) {
    lines_ = std::make_unique<LineReader>(file, options_.block_bytes, options_.preprocess.max_document_bytes);
    if (place_.offset > 0) lines_->skip_to(place_.offset, place_.line);
  }
  LineBlock lines;
  if (!lines_->next(lines)) return false;
  block.first_line = lines.first_line;
  block.oversized = lines.oversized;
  block.text_bytes = lines.oversized ? lines.oversized : lines.bytes.size();
  block.bytes = std::move(lines.bytes);
  block.compressed_total = finished_bytes_ + lines_->compressed_offset();
  place_ = block.next = {place_.file, lines.offset + block.text_bytes, lines.first_line + lines.lines};
  return true;
}

bool TextBlockReader::whole_file(TextBlock& block) {
  const fs::path& file = options_.files[static_cast<size_t>(place_.file)].path;
  if (place_.offset > 0) return false;
  const auto source = ByteSource::open(file);
  const uint64_t limit = options_.preprocess.max_document_bytes;
  uint64_t total = 0;
  for (;;) {
    const size_t have = total <= limit ? block.bytes.size() : 0;
    block.bytes.resize(have + options_.block_bytes);
    const size_t n = source->read(block.bytes.data() + have, options_.block_bytes);
    block.bytes.resize(have + n);
    total += n;
    if (n == 0) break;
  }
  if (total == 0) return false;
  if (total > limit) {
    block.oversized = total;
    block.bytes.clear();
  }
  block.text_bytes = total;
  block.compressed_total = finished_bytes_ + fs::file_size(file);
  place_ = block.next = {place_.file, total, 2};
  return true;
}

bool TextBlockReader::next_rows(TextBlock& block) {
  const fs::path& file = options_.files[static_cast<size_t>(place_.file)].path;
  if (!columns_) {
    columns_ = std::make_unique<ParquetColumns>(file, options_.preprocess.json_keys);
    if (place_.offset > 0) columns_->skip_to(static_cast<int64_t>(place_.offset));
  }
  const size_t keys = options_.preprocess.json_keys.size();
  int64_t row = place_.line;
  size_t row_begin = 0;
  std::string problem;
  const auto visit = [&](size_t column, std::string_view value, bool is_null) {
    if (is_null) problem = format("column '{}' holds no value (null)", options_.preprocess.json_keys[column]);
    else if (value.size() > options_.preprocess.max_document_bytes)
      problem = too_long(value.size(), options_.preprocess.max_document_bytes);
    if (problem.empty()) {
      block.bytes += value;
      block.ends.push_back(block.bytes.size());
    }
    if (column + 1 < keys) return;
    if (problem.empty()) {
      block.rows.push_back(row);
    } else {
      block.bad_rows.emplace_back(row, std::move(problem));
      problem.clear();
      block.bytes.resize(row_begin);
      block.ends.resize(block.rows.size() * keys);
    }
    row_begin = block.bytes.size();
    ++row;
  };
  while (block.bytes.size() < options_.block_bytes && columns_->read_rows(64, visit) > 0) {
  }
  if (row == place_.line) return false;
  block.first_line = place_.line;
  block.text_bytes = block.bytes.size();
  place_ = block.next = {place_.file, static_cast<uint64_t>(row - 1), row};
  const double share = static_cast<double>(row - 1) / static_cast<double>(std::max<int64_t>(columns_->rows(), 1));
  block.compressed_total = finished_bytes_ + static_cast<uint64_t>(share * static_cast<double>(fs::file_size(file)));
  return true;
}

std::string too_long(uint64_t bytes, uint64_t limit) {
  return format("a document of {}, longer than --max-document-bytes {}", human_bytes(bytes), limit);
}

}  // namespace ponte
