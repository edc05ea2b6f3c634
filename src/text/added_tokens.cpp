#include "text/added_tokens.h"

#include <algorithm>
#include <cstring>

#include "base/errors.h"
#include "text/unicode.h"

namespace ponte {
namespace {

bool space(const char* at) { return (unicode::tables().classes_of(unicode::decode(at).code) & unicode::kSpace) != 0; }

}  // namespace

AddedTokenMatcher::AddedTokenMatcher(const std::vector<AddedToken>& tokens, const std::vector<std::string>& spellings) : tokens_(tokens) {
  PONTE_ASSERT(tokens.size() == spellings.size());
  int distinct = 0;
  for (size_t i = 0; i < tokens_.size(); ++i) {
    if (spellings[i].empty()) continue;
    trie_.insert(spellings[i], static_cast<int32_t>(i));
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

void AddedTokenMatcher::split(std::string_view text, std::vector<Piece>& pieces) const {
  if (text.empty()) return;
  const char *begin = text.data(), *end = begin + text.size(), *from = begin, *spaces_end = begin;
  if (!empty())
    for (const char* at = next_start(begin, end); at < end;) {
      int32_t index = -1;
      const size_t length = trie_.longest(at, end, index);
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
        while (start > from && space(unicode::previous(start))) start = unicode::previous(start);
        start = std::max(start, from);
      }
      if (token.rstrip) {
        if (stop < spaces_end) stop = spaces_end;  // inside spaces an earlier token has taken already
        while (stop < end && space(stop)) stop += unicode::decode(stop).bytes;
        spaces_end = stop;
      }
      if (from < start) pieces.push_back({kText, {from, start}});
      if (start >= stop) continue;  // the token before has taken all of it
      pieces.push_back({token.id, {start, stop}});
      from = stop;
    }
  if (from != end) pieces.push_back({kText, {from, end}});
}

}  // namespace ponte
