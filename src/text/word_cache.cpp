#include "text/word_cache.h"

#include <utility>

#include "base/hash.h"

namespace ponte {

WordCache::WordCache() : slots_(kFirst), mask_(kFirst - 1), longs_(kFirst / 4), arena_(kMostArena / sizeof(int32_t)) {}

// Into the first free slot of the word's run; false when all are taken.
bool WordCache::place(const Slot& slot, uint64_t hash) {
  for (size_t at = hash & mask_, tries = 0; tries < kTries; at = (at + 1) & mask_, ++tries)
    if (!slots_[at].high) {
      slots_[at] = slot;
      ++used_;
      return true;
    }
  return false;
}

void WordCache::grow() {
  PageArray<Slot> old(slots_.size() * 4);
  std::swap(old, slots_);
  mask_ = slots_.size() - 1;
  used_ = 0;
  for (const Slot& s : std::span(old.begin(), old.end()))
    if (s.high) place(s, hash({s.low, s.high & kKeyMask}));
}

void WordCache::insert(Key k, uint64_t h, std::span<const int32_t> ids) {
  const bool inside = ids.size() <= kInSlot;
  Slot slot{k.low, k.high | static_cast<uint64_t>(inside ? ids.size() : kElsewhere) << 60, {0, 0, 0, 0}};
  if (inside) {
    for (size_t i = 0; i < ids.size(); ++i) slot.ids[i] = static_cast<uint32_t>(ids[i]);
  } else {
    slot.ids[0] = reserve(ids.size()), slot.ids[1] = static_cast<uint32_t>(ids.size());
    std::memcpy(arena_.data() + slot.ids[0], ids.data(), ids.size_bytes());
  }
  if (used_ * 2 >= slots_.size() && slots_.size() < kMost) grow();
  if (place(slot, h)) return;
  if (slots_.size() < kMost) {
    grow();
    if (place(slot, h)) return;
  }
  slots_[(h + (h >> 61)) & mask_] = slot;  // one of the eight makes room
}

uint32_t WordCache::reserve(size_t words) {
  if (arena_used_ + words > arena_.size()) {  // full: begin again
    arena_used_ = 0;
    longs_.assign(longs_.size(), Long{});
    longs_used_ = 0;
    slots_ = PageArray<Slot>(slots_.size());
    used_ = 0;
  }
  return static_cast<uint32_t>(std::exchange(arena_used_, arena_used_ + words));
}

uint64_t WordCache::hash_long(std::string_view word) {
  return xxh3_64(std::as_bytes(std::span(word.data(), word.size()))) | 1;  // never 0
}

std::span<const int32_t> WordCache::find_long(std::string_view word, uint64_t hash) const {
  const size_t mask = longs_.size() - 1;
  for (size_t at = (hash >> 8) & mask; longs_[at].hash; at = (at + 1) & mask) {
    const Long& e = longs_[at];
    if (e.hash != hash || e.bytes != word.size()) continue;
    const int32_t* ids = arena_.data() + e.offset;
    if (std::memcmp(ids + e.ids, word.data(), word.size()) == 0) return {ids, e.ids};
  }
  return {};
}

void WordCache::grow_long() {
  std::vector<Long> old(longs_.size() * 4);
  old.swap(longs_);
  for (const Long& e : old) {
    if (!e.hash) continue;
    size_t at = (e.hash >> 8) & (longs_.size() - 1);
    while (longs_[at].hash) at = (at + 1) & (longs_.size() - 1);
    longs_[at] = e;
  }
}

void WordCache::insert_long(std::string_view word, uint64_t hash, std::span<const int32_t> ids) {
  if (longs_used_ * 2 >= longs_.size()) grow_long();
  const size_t words = ids.size() + (word.size() + 3) / 4;
  const uint32_t offset = reserve(words);
  std::memcpy(arena_.data() + offset, ids.data(), ids.size_bytes());
  std::memcpy(arena_.data() + offset + ids.size(), word.data(), word.size());
  size_t at = (hash >> 8) & (longs_.size() - 1);
  while (longs_[at].hash) at = (at + 1) & (longs_.size() - 1);
  longs_[at] = {hash, offset, static_cast<uint16_t>(word.size()), static_cast<uint16_t>(ids.size())};
  ++longs_used_;
}

}  // namespace ponte
