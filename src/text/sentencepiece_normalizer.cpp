#include "text/sentencepiece_normalizer.h"

#include <cstring>

#include "base/errors.h"
#include "text/scanner.h"
#include "text/unicode.h"

namespace ponte {
namespace {


// A unit of the double array.
bool has_leaf(uint32_t unit) { return (unit >> 8 & 1) != 0; }
uint32_t label(uint32_t unit) { return unit & (0x80000000u | 0xFFu); }
uint32_t offset(uint32_t unit) { return (unit >> 10) << ((unit & (1u << 9)) >> 6); }

}  // namespace

SentencePieceNormalizer::SentencePieceNormalizer(std::string_view charsmap, Options options, const std::vector<std::string>& untouched,
                                                 std::string_view origin)
    : options_(options) {
  for (const std::string& text : untouched) untouched_.insert(text, 0);
  if (charsmap.empty()) return;
  uint32_t bytes = 0;
  require(charsmap.size() > sizeof(bytes), "{}: precompiled_charsmap of {} bytes, wanted more than 4", origin, charsmap.size());
  std::memcpy(&bytes, charsmap.data(), sizeof(bytes));
  charsmap.remove_prefix(sizeof(bytes));
  require(bytes < charsmap.size() && bytes % 4 == 0 && bytes > 0, "{}: precompiled_charsmap says its rules take {} of {} bytes", origin, bytes,
          charsmap.size());
  units_.resize(bytes / 4);
  std::memcpy(units_.data(), charsmap.data(), bytes);
  replacements_ = charsmap.substr(bytes);
  require(replacements_.back() == '\0', "{}: the texts of precompiled_charsmap do not end", origin);
  require(unicode::is_valid(replacements_), "{}: a text of precompiled_charsmap is not UTF-8", origin);
}

size_t SentencePieceNormalizer::longest_rule(std::string_view text, uint32_t& value) const {
  size_t best = 0;
  if (units_.empty()) return 0;
  uint32_t node = offset(units_[0]);
  for (size_t i = 0; i < text.size(); ++i) {
    node ^= static_cast<uint8_t>(text[i]);
    if (node >= units_.size() || label(units_[node]) != static_cast<uint8_t>(text[i])) break;
    const uint32_t unit = units_[node];
    node ^= offset(unit);
    if (node >= units_.size()) break;
    if (has_leaf(unit)) value = units_[node] & 0x7FFFFFFFu, best = i + 1;
  }
  return best;
}

std::string_view SentencePieceNormalizer::rewritten_prefix(std::string_view text, size_t& consumed) const {
  int32_t unused = 0;
  if (const size_t n = untouched_.longest(text.data(), text.data() + text.size(), unused)) return text.substr(0, consumed = n);
  uint32_t value = 0;
  consumed = longest_rule(text, value);
  // A rule ends between characters and its text begins at one, or the file is damaged.
  const bool whole = consumed == text.size() || (consumed && (static_cast<uint8_t>(text[consumed]) & 0xC0) != 0x80);
  if (!whole || value >= replacements_.size() || (static_cast<uint8_t>(replacements_[value]) & 0xC0) == 0x80) consumed = 0;
  if (consumed) return replacements_.data() + value;
  return text.substr(0, consumed = unicode::decode(text.data()).bytes);
}

void SentencePieceNormalizer::normalize(std::string_view text, std::string& out, std::vector<size_t>* positions) const {
  out.clear();
  size_t at = 0, bytes = 0;
  const auto put = [&](std::string_view piece) {
    out += piece;
    if (positions) positions->insert(positions->end(), piece.size(), at);
  };
  const std::string_view space = options_.escape_whitespaces ? kVisibleSpace : " ";
  if (options_.remove_extra_whitespaces)
    while (at < text.size() && rewritten_prefix(text.substr(at), bytes) == " ") at += bytes;
  const bool something = at < text.size();
  if (something && options_.add_dummy_prefix && !options_.whitespace_as_suffix) put(space);
  bool behind_space = options_.remove_extra_whitespaces;
  while (at < text.size()) {
    std::string_view piece = rewritten_prefix(text.substr(at), bytes);
    while (behind_space && piece.starts_with(' ')) piece.remove_prefix(1);
    if (!piece.empty()) behind_space = options_.remove_extra_whitespaces && piece.ends_with(' ');
    for (; !piece.empty(); piece.remove_prefix(1)) put(piece[0] == ' ' ? space : piece.substr(0, 1));
    at += bytes;
  }
  if (something && options_.remove_extra_whitespaces)
    while (out.ends_with(space)) {
      out.resize(out.size() - space.size());
      if (positions) at = (*positions)[out.size()], positions->resize(out.size());
    }
  if (something && options_.add_dummy_prefix && options_.whitespace_as_suffix) put(space);
  if (positions) positions->push_back(something ? at : 0);
}

}  // namespace ponte
