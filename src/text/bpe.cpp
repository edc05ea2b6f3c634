#include "text/bpe.h"

#include <algorithm>
#include <functional>

#include "base/errors.h"
#include "text/unicode.h"

namespace ponte {
namespace {

constexpr size_t kLongWord = 64;  // symbols; from here on a heap beats scanning for the lowest rank

std::array<uint32_t, 256> byte_code_points() {
  std::array<uint32_t, 256> out;
  uint32_t next = 256;
  for (uint32_t b = 0; b < 256; ++b) {
    const bool printable = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
    out[b] = printable ? b : next++;
  }
  return out;
}

}  // namespace

const std::array<std::string, 256>& byte_spelling() {
  static const auto built = [] {
    std::array<std::string, 256> out;
    const auto points = byte_code_points();
    for (size_t b = 0; b < 256; ++b) unicode::append(out[b], points[b]);
    return out;
  }();
  return built;
}

int byte_of_spelling(uint32_t code_point) {
  static const auto built = [] {
    std::array<int16_t, 512> out;
    out.fill(-1);
    const auto points = byte_code_points();
    for (size_t b = 0; b < 256; ++b) out[points[b]] = static_cast<int16_t>(b);
    return out;
  }();
  return code_point < built.size() ? built[code_point] : -1;
}

bool spelled_bytes(std::string_view spelling, std::string& bytes) {
  bytes.clear();
  for (const char *at = spelling.data(), *end = at + spelling.size(); at < end;) {
    const auto c = unicode::decode(at);
    const int byte = byte_of_spelling(c.code);
    if (byte < 0) return false;
    bytes += static_cast<char>(byte);
    at += c.bytes;
  }
  return true;
}

Bpe::Bpe(TokenTable vocabulary, const std::vector<std::pair<std::string_view, std::string_view>>& merges, BpeOptions options)
    : vocabulary_(std::move(vocabulary)), options_(std::move(options)) {
  require(merges.size() < kRankMask, "tokenizer: {} merges, at most {} are supported", merges.size(), kRankMask - 1);
  vocabulary_.for_each([&](std::string_view token, int32_t id) {
    require(id >= 0 && id < (1 << kIdBits) - 1, "tokenizer: id {} of token '{}', wanted 0 to {}", id, token, (1 << kIdBits) - 2);
  });
  if (options_.unknown_token)
    require(vocabulary_.find(*options_.unknown_token) != TokenTable::kNone, "tokenizer: unk_token '{}' is not in the vocabulary", *options_.unknown_token);
  size_t slots = 64;
  while (slots < merges.size() * 2) slots *= 2;
  pairs_.assign(slots, kFree);
  pair_mask_ = slots - 1;
  pair_shift_ = 64 - __builtin_ctzll(slots);
  merged_.reserve(merges.size());
  for (size_t i = 0; i < merges.size(); ++i) add_merge(merges[i].first, merges[i].second, static_cast<uint32_t>(i));
  all_bytes_ = options_.byte_level;
  for (size_t b = 0; b < 256; ++b) {
    byte_ids_[b] = vocabulary_.find(byte_spelling()[b]);
    all_bytes_ = all_bytes_ && byte_ids_[b] != TokenTable::kNone;
  }
  if (options_.ignore_merges && options_.byte_level) {
    std::string bytes;
    vocabulary_.for_each([&](std::string_view token, int32_t id) {
      if (spelled_bytes(token, bytes)) words_.insert(bytes, id);
    });
  }
}

void Bpe::add_merge(std::string_view left, std::string_view right, uint32_t rank) {
  const std::string result = std::string(left) + std::string(right);
  const int32_t a = vocabulary_.find(left), b = vocabulary_.find(right), merged = vocabulary_.find(result);
  for (const auto& [token, id] : {std::pair<std::string_view, int32_t>{left, a}, {right, b}, {result, merged}})
    require(id != TokenTable::kNone, "tokenizer: merge {} ('{}' + '{}') needs token '{}', which is not in the vocabulary", rank + 1, left, right, token);
  merged_.push_back(merged);
  const uint64_t key = static_cast<uint64_t>(a) << kIdBits | static_cast<uint64_t>(b);
  size_t at = mix(key);
  while (pairs_[at] != kFree && pairs_[at] >> (64 - 2 * kIdBits) != key) at = (at + 1) & pair_mask_;
  pairs_[at] = key << (64 - 2 * kIdBits) | rank;  // of a pair named twice the later rank counts
}

bool Bpe::fall_back(std::string_view character, std::vector<int32_t>& symbols) const {
  constexpr char kDigits[] = "0123456789ABCDEF";
  std::array<int32_t, 8> ids;
  size_t n = 0;
  for (const char c : character) {
    const auto byte = static_cast<uint8_t>(c);
    const char spelling[] = {'<', '0', 'x', kDigits[byte >> 4], kDigits[byte & 15], '>'};
    const int32_t id = vocabulary_.find({spelling, 6});
    if (id == TokenTable::kNone) return false;
    ids[n++] = id;
  }
  symbols.insert(symbols.end(), ids.begin(), ids.begin() + n);
  return true;
}

// As BPE::merge_word: a pending unknown token is written only when a known character follows, or at the end.
void Bpe::symbols_of_characters(std::string_view word, std::vector<int32_t>& symbols) const {
  const int32_t unknown = options_.unknown_token ? vocabulary_.find(*options_.unknown_token) : TokenTable::kNone;
  bool pending = false;
  for (const char *at = word.data(), *end = at + word.size(); at < end;) {
    const std::string_view character(at, unicode::decode(at).bytes);
    at += character.size();
    const int32_t id = vocabulary_.find(character);
    if (id != TokenTable::kNone) {
      if (pending) symbols.push_back(unknown);
      pending = false;
      symbols.push_back(id);
      continue;
    }
    if (options_.byte_fallback && fall_back(character, symbols)) continue;
    if (unknown == TokenTable::kNone) continue;
    if (pending && !options_.fuse_unknown) symbols.push_back(unknown);
    pending = true;
  }
  if (pending) symbols.push_back(unknown);
}

void Bpe::encode(std::string_view word, BpeScratch& scratch, std::vector<int32_t>& ids) const {
  if (word.empty()) return;
  if (options_.ignore_merges) {
    const int32_t id = (options_.byte_level ? words_ : vocabulary_).find(word);
    if (id != TokenTable::kNone) return ids.push_back(id);
  }
  std::vector<int32_t>& symbols = scratch.symbols;
  symbols.clear();
  if (all_bytes_) {
    symbols.resize(word.size());
    for (size_t i = 0; i < word.size(); ++i) symbols[i] = byte_ids_[static_cast<uint8_t>(word[i])];
  } else if (options_.byte_level) {
    scratch.spelled.clear();
    for (const char c : word) scratch.spelled += byte_spelling()[static_cast<uint8_t>(c)];
    symbols_of_characters(scratch.spelled, symbols);
  } else {
    symbols_of_characters(word, symbols);
  }
  if (symbols.size() >= kLongWord) merge_long(symbols, scratch);
  else if (symbols.size() > 1) merge_short(symbols, scratch);
  ids.insert(ids.end(), symbols.begin(), symbols.end());
}

// Scans for the lowest rank and closes the gap, until no pair has a rank.
void Bpe::merge_short(std::vector<int32_t>& symbols, BpeScratch& scratch) const {
  size_t n = symbols.size();
  std::vector<uint32_t>& rank = scratch.rank;
  rank.resize(n);
  for (size_t i = 0; i + 1 < n; ++i) rank[i] = rank_of(symbols[i], symbols[i + 1]);
  while (n > 1) {
    size_t at = 0;
    for (size_t i = 1; i + 1 < n; ++i)
      if (rank[i] < rank[at]) at = i;
    if (rank[at] == kNoRank) break;
    symbols[at] = merged_[rank[at]];
    std::copy(symbols.begin() + at + 2, symbols.begin() + n, symbols.begin() + at + 1);
    if (at + 2 < n) std::copy(rank.begin() + at + 2, rank.begin() + n, rank.begin() + at + 1);
    --n;
    if (at > 0) rank[at - 1] = rank_of(symbols[at - 1], symbols[at]);
    if (at + 1 < n) rank[at] = rank_of(symbols[at], symbols[at + 1]);
  }
  symbols.resize(n);
}

// A linked list of symbols and a heap of (rank, position): n log n for words of any length. rank[i] is that of the pair starting at i, so a
// heap entry that disagrees with it is out of date.
void Bpe::merge_long(std::vector<int32_t>& symbols, BpeScratch& scratch) const {
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
    symbols[at] = merged_[found];
    rank[gone] = kNoRank;
    rank[at] = kNoRank;
    next[at] = after;
    if (after < n) previous[after] = at, refresh(at, after);
    if (at > 0) refresh(previous[at], at);
  }
  size_t kept = 0;
  for (size_t i = 0; i < n; i = next[i]) symbols[kept++] = symbols[i];
  symbols.resize(kept);
}

}  // namespace ponte
