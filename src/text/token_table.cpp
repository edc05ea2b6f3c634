#include "text/token_table.h"

#include "base/errors.h"
#include "base/hash.h"

namespace ponte {

uint64_t TokenTable::hash(std::string_view token) { return xxh3_64(std::as_bytes(std::span(token.data(), token.size()))); }

void TokenTable::reserve(size_t tokens, size_t bytes) {
  arena_.reserve(bytes);
  entries_.reserve(tokens);
  size_t slots = 64;
  while (slots < tokens * 2) slots *= 2;
  if (slots > slots_.size()) rebuild(slots);
}

void TokenTable::rebuild(size_t slots) {
  slots_.assign(slots, 0);
  for (size_t i = 0; i < entries_.size(); ++i) {
    size_t at = entries_[i].hash & (slots - 1);
    while (slots_[at]) at = (at + 1) & (slots - 1);
    slots_[at] = static_cast<uint32_t>(i + 1);
  }
}

void TokenTable::insert(std::string_view token, int32_t id) {
  if (entries_.size() * 2 >= slots_.size()) rebuild(std::max<size_t>(64, slots_.size() * 2));
  const uint64_t h = hash(token);
  size_t at = h & (slots_.size() - 1);
  for (; slots_[at]; at = (at + 1) & (slots_.size() - 1)) {
    Entry& e = entries_[slots_[at] - 1];
    if (e.hash == h && text(e) == token) {
      e.id = id;
      return;
    }
  }
  require(entries_.size() < UINT32_MAX - 1, "vocabulary: more than {} tokens", UINT32_MAX - 1);
  entries_.push_back({arena_.size(), static_cast<uint32_t>(token.size()), id, h});
  arena_ += token;
  slots_[at] = static_cast<uint32_t>(entries_.size());
}

int32_t TokenTable::find(std::string_view token) const {
  if (slots_.empty()) return kNone;
  const uint64_t h = hash(token);
  for (size_t at = h & (slots_.size() - 1); slots_[at]; at = (at + 1) & (slots_.size() - 1)) {
    const Entry& e = entries_[slots_[at] - 1];
    if (e.hash == h && text(e) == token) return e.id;
  }
  return kNone;
}

}  // namespace ponte
