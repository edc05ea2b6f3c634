// Ids of words seen before. Text repeats itself: of 23 million words in 100 MB of mixed text one in forty is new.
//
// Words of up to 15 bytes are one 32-byte slot, found by comparing 16 bytes, with room for 4 ids; longer words, and more ids, are in an arena.
// The tables start small and grow with use; at their limit they let go of what is there.
#pragma once
#include <array>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

#include "text/page_array.h"

namespace ponte {

class WordCache {
 public:
  static constexpr size_t kShort = 15, kLong = 1023;  // bytes: longer words are not kept

  // A short word as the 16 bytes it is compared by: its bytes, zeros, and its length in the low half of the last byte.
  struct Key {
    uint64_t low, high;
  };
  struct Slot {
    uint64_t low, high;  // Key, with the number of ids in the high half of the last byte; high 0: free
    uint32_t ids[4];
  };

  WordCache();

  // `readable`: bytes that may be read from word.data() on; the word itself is 1 to 15 bytes long.
  static Key key(const char* word, size_t size, size_t readable) {
    Key out;
    if (readable >= 16) {
      std::memcpy(&out, word, 16);
    } else {
      out = {0, 0};
      std::memcpy(&out, word, size);
    }
    out.low &= kKept[size].low;
    out.high = (out.high & kKept[size].high) | static_cast<uint64_t>(size) << 56;
    return out;
  }
  static uint64_t hash(Key k) {
    const auto product = static_cast<unsigned __int128>(k.low ^ 0x9E3779B97F4A7C15u) * (k.high ^ 0xD1B54A32D192ED03u);
    return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
  }
  void prefetch(uint64_t hash) const { __builtin_prefetch(&slots_[hash & mask_]); }
  // The slot of a short word, null when it is not there.
  const Slot* find(Key k, uint64_t hash) const {
    for (size_t at = hash & mask_, tries = 0; tries < kTries; at = (at + 1) & mask_, ++tries) {
      const Slot& s = slots_[at];
      if (s.low == k.low && (s.high & kKeyMask) == k.high) return &s;
      if (!s.high) return nullptr;
    }
    return nullptr;
  }
  // Ids in the slot itself; kElsewhere when there are more, and ids() has them.
  static constexpr size_t kInSlot = 4, kElsewhere = 15;
  static size_t count(const Slot& s) { return s.high >> 60; }
  std::span<const int32_t> ids(const Slot& s) const { return {arena_.data() + s.ids[0], s.ids[1]}; }
  void insert(Key k, uint64_t hash, std::span<const int32_t> ids);

  // The same for longer words, up to kLong bytes.
  void prefetch_long(uint64_t hash) const { __builtin_prefetch(&longs_[(hash >> 8) & (longs_.size() - 1)]); }
  std::span<const int32_t> find_long(std::string_view word, uint64_t hash) const;
  static uint64_t hash_long(std::string_view word);
  void insert_long(std::string_view word, uint64_t hash, std::span<const int32_t> ids);

 private:
  // Masks that keep the first `size` bytes.
  static constexpr std::array<Key, kShort + 1> kKept = [] {
    std::array<Key, kShort + 1> out{};
    for (size_t size = 0; size <= kShort; ++size)
      for (size_t i = 0; i < size; ++i) (i < 8 ? out[size].low : out[size].high) |= uint64_t{0xFF} << (8 * (i % 8));
    return out;
  }();
  static constexpr uint64_t kKeyMask = 0x0FFFFFFFFFFFFFFFu;
  static constexpr size_t kTries = 16;  // slots looked at: with eight, one word in ten found no room in a full cache
  static constexpr size_t kFirst = size_t{1} << 12, kMost = size_t{1} << 20;
  static constexpr size_t kMostArena = size_t{48} << 20;

  struct Long {
    uint64_t hash;    // 0: free
    uint32_t offset;  // of the ids in arena_, then the bytes
    uint16_t bytes, ids;
  };
  bool place(const Slot& slot, uint64_t hash);
  uint32_t reserve(size_t words);  // of the arena; may empty the cache first
  void grow();
  void grow_long();

  PageArray<Slot> slots_;
  size_t mask_ = 0, used_ = 0;
  std::vector<Long> longs_;
  size_t longs_used_ = 0;
  PageArray<int32_t> arena_;
  size_t arena_used_ = 0;
};

}  // namespace ponte
