// Merging the symbols of one word: by the lowest key of a short list, and by a heap beyond.
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include <algorithm>
#include <functional>
#include <numeric>

#include "base/errors.h"
#include "text/bpe.h"

namespace ponte {
namespace {

// The lowest of n keys, which are below 2^31 and padded with kNoKey to a multiple of eight.
inline uint32_t lowest(const uint32_t* keys, size_t n) {
#if defined(__SSE2__)
  const auto load = [keys](size_t i) { return _mm_load_si128(reinterpret_cast<const __m128i*>(keys + i)); };
  const auto lower = [](__m128i a, __m128i b) {
    const __m128i less = _mm_cmplt_epi32(a, b);
    return _mm_or_si128(_mm_and_si128(less, a), _mm_andnot_si128(less, b));
  };
  __m128i even = load(0), odd = load(4);
  for (size_t i = 8; i < n; i += 8) even = lower(even, load(i)), odd = lower(odd, load(i + 4));
  even = lower(even, odd);
  even = lower(even, _mm_shuffle_epi32(even, 0x4E));
  even = lower(even, _mm_shuffle_epi32(even, 0xB1));
  return static_cast<uint32_t>(_mm_cvtsi128_si32(even));
#else
  return *std::min_element(keys, keys + n);
#endif
}

constexpr size_t kFew = 24;

// The same one key at a time. A wide load right behind narrow stores waits until they have left the pipeline, so short lists are faster this way.
inline uint32_t lowest_of_few(const uint32_t* keys, size_t n) {
  uint32_t a = keys[0], b = keys[1], c = keys[2], d = keys[3];
  for (size_t i = 4; i < n; i += 4) {
    a = keys[i] < a ? keys[i] : a, b = keys[i + 1] < b ? keys[i + 1] : b;
    c = keys[i + 2] < c ? keys[i + 2] : c, d = keys[i + 3] < d ? keys[i + 3] : d;
  }
  a = b < a ? b : a, c = d < c ? d : c;
  return c < a ? c : a;
}

}  // namespace

// Each pair has a key, rank << 6 | position, so the lowest key is the next merge. Symbols stay where they are; a bit mask says which are alive.
// On entry keys[i] is that of the pair at i, kNoKey for none and up to the next multiple of eight. Returns how many symbols are left.
size_t Bpe::merge_short(int32_t* symbols, uint32_t* keys, size_t n) const {
  uint64_t alive = n == 64 ? ~uint64_t{0} : (uint64_t{1} << n) - 1;
  const auto key = [this, symbols](size_t left, size_t right, uint64_t hash) {
    const uint32_t rank = rank_of(symbols[left], symbols[right], hash);
    return rank == kNoRank ? kNoKey : rank << 6 | static_cast<uint32_t>(left);
  };
  for (uint32_t best; (best = n <= kFew ? lowest_of_few(keys, n) : lowest(keys, n)) != kNoKey;) {
    const size_t at = best & 63, gone = at + 1 + static_cast<size_t>(__builtin_ctzll(alive >> at >> 1));
    symbols[at] = merged(best >> 6);
    alive &= ~(uint64_t{1} << gone);
    keys[gone] = kNoKey;
    // Both neighbours' lookups begin before either is waited for; a neighbour that is not there stands in as the symbol itself.
    const uint64_t after = alive >> at >> 1, before = alive & ((uint64_t{1} << at) - 1);
    const size_t next = after ? at + 1 + static_cast<size_t>(__builtin_ctzll(after)) : at;
    const size_t previous = before ? 63 - static_cast<size_t>(__builtin_clzll(before)) : at;
    const uint64_t hash_next = pair_hash(symbols[at], symbols[next]), hash_previous = pair_hash(symbols[previous], symbols[at]);
    prefetch_pair(hash_next), prefetch_pair(hash_previous);
    keys[at] = after ? key(at, next, hash_next) : kNoKey;
    if (before) keys[previous] = key(previous, at, hash_previous);
  }
  size_t kept = 0;
  for (uint64_t rest = alive; rest; rest &= rest - 1) symbols[kept++] = symbols[__builtin_ctzll(rest)];
  return kept;
}

// The common case: a word of few bytes in a vocabulary that has them all.
void Bpe::encode_short_bytes(std::string_view word, std::vector<int32_t>& ids) const {
  alignas(16) uint32_t keys[kShortWord];
  int32_t symbols[kShortWord];
  const size_t n = word.size();
  const auto byte = [&](size_t i) { return static_cast<size_t>(static_cast<uint8_t>(word[i])); };
  for (size_t i = 0; i + 1 < n; ++i) {
    symbols[i] = byte_ids_[byte(i)];
    const uint32_t rank = byte_ranks_[byte(i) << 8 | byte(i + 1)];
    keys[i] = rank == kNoRank ? kNoKey : rank << 6 | static_cast<uint32_t>(i);
  }
  symbols[n - 1] = byte_ids_[byte(n - 1)];
  for (size_t i = n - 1; i < (n + 7) / 8 * 8; ++i) keys[i] = kNoKey;
  const size_t kept = merge_short(symbols, keys, n);
  ids.insert(ids.end(), symbols, symbols + kept);
}

// As merge_short with links instead of the bit mask, and the lowest key of every sixteen kept at hand.
void Bpe::merge_medium(std::vector<int32_t>& symbols) const {
  constexpr size_t kBlock = 16;
  const size_t n = symbols.size(), blocks = (n + kBlock - 1) / kBlock;
  alignas(16) uint32_t keys[kMediumWord], lowest_of[kMediumWord / kBlock];
  uint16_t next[kMediumWord], previous[kMediumWord];
  std::fill(std::begin(keys), std::end(keys), kNoKey);
  std::fill(std::begin(lowest_of), std::end(lowest_of), kNoKey);
  const auto set = [&](size_t left, size_t right) {
    const uint32_t rank = rank_of(symbols[left], symbols[right]);
    keys[left] = rank == kNoRank ? kNoKey : rank << 8 | static_cast<uint32_t>(left);
  };
  const auto update = [&](size_t at) { lowest_of[at / kBlock] = lowest(keys + at / kBlock * kBlock, kBlock); };
  for (size_t i = 0; i < n; ++i) {
    next[i] = static_cast<uint16_t>(i + 1), previous[i] = static_cast<uint16_t>(i - 1);
    if (i + 1 < n) set(i, i + 1);
  }
  for (size_t b = 0; b < blocks; ++b) update(b * kBlock);
  for (uint32_t best; (best = lowest(lowest_of, blocks)) != kNoKey;) {
    const size_t at = best & 255, gone = next[at], after = next[gone];
    symbols[at] = merged(best >> 8);
    next[at] = static_cast<uint16_t>(after);
    keys[gone] = keys[at] = kNoKey;
    if (after < n) previous[after] = static_cast<uint16_t>(at), set(at, after);
    if (at > 0) set(previous[at], at), update(previous[at]);
    update(at), update(gone);
  }
  size_t kept = 0;
  for (size_t i = 0; i < n; i = next[i]) symbols[kept++] = symbols[i];
  symbols.resize(kept);
}

// A linked list of symbols and a heap of (rank, position): n log n for words of any length. rank[i] is that of the pair starting at i, so a
// heap entry that disagrees with it is out of date.
void Bpe::merge_long(std::vector<int32_t>& symbols, BpeScratch& scratch, std::vector<uint32_t>* lengths) const {
  const size_t n = symbols.size();
  require(n < UINT32_MAX, "tokenizer: a word of {} bytes", n);
  auto& [all, rank, next, previous, heap, spelled] = scratch;
  rank.assign(n, kNoRank), next.resize(n), previous.resize(n), heap.clear();
  const auto later = std::greater<uint64_t>();
  for (size_t i = 0; i < n; ++i) {
    next[i] = static_cast<uint32_t>(i + 1), previous[i] = static_cast<uint32_t>(i - 1);
    if (i + 1 < n) rank[i] = rank_of(symbols[i], symbols[i + 1]);
    if (rank[i] != kNoRank) heap.push_back(uint64_t{rank[i]} << 32 | i);
  }
  std::make_heap(heap.begin(), heap.end(), later);
  const auto refresh = [&](uint32_t left, uint32_t right) {
    rank[left] = rank_of(symbols[left], symbols[right]);
    if (rank[left] == kNoRank) return;
    heap.push_back(uint64_t{rank[left]} << 32 | left);
    std::push_heap(heap.begin(), heap.end(), later);
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), later);
    const auto at = static_cast<uint32_t>(heap.back());
    const auto found = static_cast<uint32_t>(heap.back() >> 32);
    heap.pop_back();
    if (rank[at] != found) continue;
    const uint32_t gone = next[at], after = next[gone];
    symbols[at] = merged(found);
    rank[gone] = kNoRank;
    rank[at] = kNoRank;
    next[at] = after;
    if (after < n) previous[after] = at, refresh(at, after);
    if (at > 0) refresh(previous[at], at);
  }
  size_t kept = 0;
  for (size_t i = 0; i < n; i = next[i], ++kept) {
    symbols[kept] = symbols[i];
    if (lengths) (*lengths)[kept] = std::accumulate(lengths->begin() + static_cast<std::ptrdiff_t>(i), lengths->begin() + next[i], uint32_t{0});
  }
  symbols.resize(kept);
  if (lengths) lengths->resize(kept);
}

}  // namespace ponte
