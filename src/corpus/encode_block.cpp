#include "corpus/encode_block.h"

#include <simdjson.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/errors.h"

namespace ponte {
namespace {

bool is_blank(std::string_view line) { return line.find_first_not_of(" \t\r\n\f\v") == line.npos; }

// Appends ids in the width of the file.
void store(std::span<const int32_t> ids, DType dtype, std::vector<std::byte>& out) {
  const size_t at = out.size();
  if (dtype == DType::i32) {
    out.resize(at + ids.size_bytes());
    std::memcpy(out.data() + at, ids.data(), ids.size_bytes());
    return;
  }
  out.resize(at + 2 * ids.size());
  for (size_t i = 0; i < ids.size(); ++i) {
    const auto narrow = static_cast<uint16_t>(ids[i]);
    std::memcpy(out.data() + at + 2 * i, &narrow, 2);
  }
}

bool fit_16_bits(std::span<const int32_t> ids) {
  uint32_t all = 0;
  for (int32_t id : ids) all |= static_cast<uint32_t>(id);
  return all <= 0xFFFF;
}

void drop_last(EncodedDocuments& documents, DType dtype) {
  int64_t tokens = 0;
  for (int32_t n = documents.sequences_per_document.back(); n > 0; --n) {
    tokens += documents.lengths.back();
    documents.lengths.pop_back();
  }
  documents.sequences_per_document.pop_back();
  documents.ids.resize(documents.ids.size() - static_cast<size_t>(tokens * dtype_bytes(dtype)));
}

}  // namespace

BlockEncoder::BlockEncoder(EncodeOptions options) : options_(std::move(options)), json_(options_.preprocess.json_keys) {}

EncodedBlock BlockEncoder::encode(TextBlock& block) {
  EncodedBlock out;
  out.keys.resize(options_.preprocess.json_keys.size());
  out.file = block.file;
  out.next = block.next;
  out.text_bytes = block.text_bytes;
  out.compressed_total = block.compressed_total;
  const size_t size = block.bytes.size();
  block.bytes.append(kJsonPadding, '\0');
  std::string_view text(block.bytes.data(), size);
  if (block.first_line == 1 && text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);  // a byte order mark is no part of the text
  if (block.oversized) out.problems.push_back({block.first_line, too_long(block.oversized, options_.preprocess.max_document_bytes)});
  else if (block.format == InputFormat::parquet) encode_rows(block, out);
  else if (block.format == InputFormat::text && options_.preprocess.text_unit == TextUnit::file) encode_plain(text, 1, out);
  else encode_lines(text, block, out);
  return out;
}

// The texts of each key, asked for in order; all of them or, where one is too long, none.
template <class TextsOf>
void BlockEncoder::append_document(int64_t line, EncodedBlock& out, TextsOf&& texts_of) {
  for (size_t k = 0; k < out.keys.size(); ++k) {
    auto problem = append(texts_of(k), out.keys[k]);
    if (!problem) continue;
    out.problems.push_back({line, std::move(*problem)});
    while (k > 0) drop_last(out.keys[--k], options_.dtype);
    return;
  }
}

void BlockEncoder::encode_lines(std::string_view text, const TextBlock& block, EncodedBlock& out) {
  int64_t number = block.first_line - 1;
  for (const std::string_view line : split_lines(text)) {
    ++number;
    if (is_blank(line)) ++out.blank;
    else if (line.size() > options_.preprocess.max_document_bytes)
      out.problems.push_back({number, too_long(line.size(), options_.preprocess.max_document_bytes)});
    else if (block.format == InputFormat::text) encode_plain(line, number, out);
    else if (auto problem = json_.read(line)) out.problems.push_back({number, std::move(*problem)});
    else append_document(number, out, [&](size_t key) { return json_.texts(key); });
  }
}

void BlockEncoder::encode_plain(std::string_view text, int64_t line, EncodedBlock& out) {
  if (!simdjson::validate_utf8(text.data(), text.size())) return out.problems.push_back({line, "not valid UTF-8"});
  append_document(line, out, [&](size_t) { return std::vector{text}; });
}

void BlockEncoder::encode_rows(const TextBlock& block, EncodedBlock& out) {
  const size_t keys = out.keys.size();
  size_t bad = 0;
  uint64_t begin = 0;
  for (size_t r = 0; r < block.rows.size(); ++r) {
    for (; bad < block.bad_rows.size() && block.bad_rows[bad].first < block.rows[r]; ++bad)
      out.problems.push_back({block.bad_rows[bad].first, block.bad_rows[bad].second});
    const uint64_t end = block.ends[(r + 1) * keys - 1];
    if (!simdjson::validate_utf8(block.bytes.data() + begin, end - begin)) {
      out.problems.push_back({block.rows[r], "not valid UTF-8"});
    } else {
      uint64_t at = begin;
      append_document(block.rows[r], out, [&](size_t key) {
        const uint64_t from = std::exchange(at, block.ends[r * keys + key]);
        return std::vector{std::string_view(block.bytes).substr(from, at - from)};
      });
    }
    begin = end;
  }
  for (; bad < block.bad_rows.size(); ++bad) out.problems.push_back({block.bad_rows[bad].first, block.bad_rows[bad].second});
}

// What the format cannot hold is a problem, and nothing of it appended.
std::optional<std::string> BlockEncoder::append(const std::vector<std::string_view>& texts, EncodedDocuments& out) {
  ids_.clear();
  lengths_.clear();
  for (const std::string_view text : texts) {
    const size_t before = ids_.size();
    options_.tokenizer->encode_append(text, options_.add_special, ids_);
    if (ids_.size() > before) lengths_.push_back(static_cast<int32_t>(ids_.size() - before));
  }
  if (!ids_.empty() && options_.eod_id >= 0) {
    ids_.push_back(options_.eod_id);
    ++lengths_.back();
  }
  if (static_cast<int64_t>(ids_.size()) > options_.preprocess.max_document_tokens)
    return format("a document of {} tokens, wanted at most {}", ids_.size(), options_.preprocess.max_document_tokens);
  if (options_.dtype == DType::u16 && !fit_16_bits(ids_))
    return format("the tokenizer gives it id {}, but Megatron's format stores vocabularies of fewer than 65500 tokens, as this one, in 16 bits",
                  *std::max_element(ids_.begin(), ids_.end()));
  out.lengths.insert(out.lengths.end(), lengths_.begin(), lengths_.end());
  out.sequences_per_document.push_back(static_cast<int32_t>(lengths_.size()));
  store(ids_, options_.dtype, out.ids);
  return std::nullopt;
}

}  // namespace ponte
