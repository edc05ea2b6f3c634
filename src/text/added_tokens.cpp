#include "text/added_tokens.h"

#include <algorithm>
#include <cstring>

#include "base/errors.h"
#include "text/unicode.h"

namespace ponte {
namespace {

bool space(const char* at) { return (unicode::tables().classes_of(unicode::decode(at).code) & unicode::kSpace) != 0; }

}  // namespace

AddedTokenMatcher::AddedTokenMatcher(const std::vector<AddedToken>& tokens, const std::vector<std::string>& spellings) : tokens_(tokens), nodes_(1) {
  PONTE_ASSERT(tokens.size() == spellings.size());
  int distinct = 0;
  for (size_t i = 0; i < tokens_.size(); ++i) {
    if (spellings[i].empty()) continue;
    uint32_t node = 0;
    for (const char c : spellings[i]) {
      auto& children = nodes_[node].children;
      const auto byte = static_cast<uint8_t>(c);
      auto it = std::lower_bound(children.begin(), children.end(), std::pair<uint8_t, uint32_t>{byte, 0});
      if (it == children.end() || it->first != byte) it = children.insert(it, {byte, static_cast<uint32_t>(nodes_.size())});
      node = it->second;
      if (node == nodes_.size()) nodes_.emplace_back();
    }
    if (nodes_[node].token < 0) nodes_[node].token = static_cast<int32_t>(i);
    bool& starts = starts_[static_cast<uint8_t>(spellings[i][0])];
    if (!starts) ++distinct, only_start_ = static_cast<uint8_t>(spellings[i][0]);
    starts = true;
  }
  if (distinct != 1) only_start_ = -1;
}

const char* AddedTokenMatcher::next_start(const char* at, const char* end) const {
  if (only_start_ >= 0) {
    const void* found = std::memchr(at, only_start_, static_cast<size_t>(end - at));
    return found ? static_cast<const char*>(found) : end;
  }
  while (at < end && !starts_[static_cast<uint8_t>(*at)]) ++at;
  return at;
}

size_t AddedTokenMatcher::longest(const char* at, const char* end, int32_t& token) const {
  size_t best = 0;
  uint32_t node = 0;
  for (const char* p = at; p < end;) {
    const auto& children = nodes_[node].children;
    const auto byte = static_cast<uint8_t>(*p++);
    const auto it = std::lower_bound(children.begin(), children.end(), std::pair<uint8_t, uint32_t>{byte, 0});
    if (it == children.end() || it->first != byte) break;
    node = it->second;
    if (nodes_[node].token >= 0) token = nodes_[node].token, best = static_cast<size_t>(p - at);
  }
  return best;
}

void AddedTokenMatcher::split(std::string_view text, std::vector<Piece>& pieces) const {
  if (text.empty()) return;
  const char *begin = text.data(), *end = begin + text.size(), *from = begin;
  if (!empty())
    for (const char* at = next_start(begin, end); at < end;) {
      int32_t index = -1;
      const size_t length = longest(at, end, index);
      if (!length) {
        at = next_start(at + 1, end);
        continue;
      }
      const AddedToken& token = tokens_[static_cast<size_t>(index)];
      const char *start = at, *stop = at + length;
      at = next_start(stop, end);
      if (token.single_word && ((start > begin && unicode::is_word(unicode::decode(unicode::previous(start)).code)) ||
                                (stop < end && unicode::is_word(unicode::decode(stop).code))))
        continue;
      if (token.lstrip) {
        while (start > begin && space(unicode::previous(start))) start = unicode::previous(start);
        start = std::max(start, from);
      }
      if (token.rstrip)
        while (stop < end && space(stop)) stop += unicode::decode(stop).bytes;
      if (from < start) pieces.push_back({kText, {from, start}});
      pieces.push_back({token.id, {start, stop}});
      from = stop;
    }
  if (from != end) pieces.push_back({kText, {from, end}});
}

}  // namespace ponte
