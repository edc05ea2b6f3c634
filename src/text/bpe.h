// Byte-pair encoding of one pre-token: symbols, then the pair of lowest rank merged, leftmost first, until no pair has a rank.
//
// Source: Sennrich et al. 2016; order of merges, unknown symbols and byte fallback as tokenizers/models/bpe.
#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/page_array.h"
#include "text/token_table.h"

namespace ponte {

struct BpeOptions {
  bool byte_level = false;     // the vocabulary spells bytes by GPT-2's alphabet; words are looked up by their bytes
  bool byte_fallback = false;  // characters outside the vocabulary become <0xXX> tokens
  bool fuse_unknown = false;   // neighbouring unknown characters become one unknown token
  bool ignore_merges = false;  // a word that is itself a token is that token
  std::optional<std::string> unknown_token;
};

// Spelling of each byte in GPT-2's alphabet, and the other way (-1 outside it).
const std::array<std::string, 256>& byte_spelling();
int byte_of_spelling(uint32_t code_point);
// The bytes a byte-level spelling stands for; false when a character is outside the alphabet.
bool spelled_bytes(std::string_view spelling, std::string& bytes);

// Working room of one thread.
struct BpeScratch {
  std::vector<int32_t> symbols;
  std::vector<uint32_t> rank, next, previous;
  std::vector<uint64_t> heap;
  std::string spelled;
};

class Bpe {
 public:
  // `merges`: pairs of spellings in order of rank. Throws UserError naming the first merge whose parts or result are not in `vocabulary`.
  Bpe(TokenTable vocabulary, const std::vector<std::pair<std::string_view, std::string_view>>& merges, BpeOptions options);

  const TokenTable& vocabulary() const { return vocabulary_; }
  const BpeOptions& options() const { return options_; }
  // Appends the ids of one word (well-formed UTF-8, any length) to `ids`.
  void encode(std::string_view word, BpeScratch& scratch, std::vector<int32_t>& ids) const;

 private:
  static constexpr uint32_t kNoRank = UINT32_MAX;
  static constexpr int kIdBits = 21;

  static uint64_t pair_hash(int32_t left, int32_t right) {
    return (static_cast<uint64_t>(left) << kIdBits | static_cast<uint64_t>(right)) * 0x9E3779B97F4A7C15u;
  }
  void prefetch_pair(uint64_t hash) const { __builtin_prefetch(&pairs_[(hash >> pair_shift_) * kBucket]); }
  // The rank of a pair. A bucket is read as a whole, without a branch between its slots: which slot it is cannot be predicted.
  uint32_t rank_of(int32_t left, int32_t right, uint64_t hash) const {
    if (!(present_[(hash >> 26) & present_mask_] >> (hash >> 20 & 63) & 1)) return kNoRank;  // most pairs have no rank, and these bits stay in the cache
    const uint64_t key = static_cast<uint64_t>(left) << kIdBits | static_cast<uint64_t>(right);
    for (size_t at = hash >> pair_shift_;; at = (at + 1) & bucket_mask_) {
      const uint64_t* const s = &pairs_[at * kBucket];
      uint64_t a = s[0] >> kRankBits == key ? s[0] : kFree, b = s[1] >> kRankBits == key ? s[1] : kFree;
      a = s[2] >> kRankBits == key ? s[2] : a, b = s[3] >> kRankBits == key ? s[3] : b;
      if (const uint64_t found = a & b; found != kFree) return static_cast<uint32_t>(found & kRankMask);
      if (s[kBucket - 1] == kFree) [[likely]] return kNoRank;
    }
  }
  uint32_t rank_of(int32_t left, int32_t right) const { return rank_of(left, right, pair_hash(left, right)); }
  static constexpr size_t kBucket = 4;
  static constexpr int kRankBits = 64 - 2 * kIdBits;
  static constexpr uint64_t kRankMask = (uint64_t{1} << kRankBits) - 1;
  static constexpr uint64_t kFree = UINT64_MAX;
  int32_t merged(uint32_t rank) const { return first_merged_ >= 0 ? first_merged_ + static_cast<int32_t>(rank) : merged_[rank]; }

  void add_merge(std::string_view left, std::string_view right, uint32_t rank);
  void symbols_of_characters(std::string_view word, std::vector<int32_t>& symbols) const;
  bool fall_back(std::string_view character, std::vector<int32_t>& symbols) const;
  static constexpr size_t kShortWord = 64, kMediumWord = 256;  // symbols; beyond, a heap beats looking for the lowest rank
  size_t merge_short(int32_t* symbols, uint32_t* keys, size_t n) const;
  void encode_short_bytes(std::string_view word, std::vector<int32_t>& ids) const;
  void merge_medium(std::vector<int32_t>& symbols) const;
  void merge_long(std::vector<int32_t>& symbols, BpeScratch& scratch) const;

  TokenTable vocabulary_;
  BpeOptions options_;
  TokenTable words_;                    // by bytes, for ignore_merges on byte-level vocabularies
  std::array<int32_t, 256> byte_ids_;   // kNone where the vocabulary lacks the byte
  bool all_bytes_ = false;
  PageArray<uint64_t> pairs_;           // left (21 bits) | right (21 bits) | rank (22 bits); buckets fill from the front
  std::vector<uint64_t> present_;       // one bit for each pair's hash, eight bits to a pair
  size_t bucket_mask_ = 0, present_mask_ = 0;
  int pair_shift_ = 64;
  std::vector<int32_t> merged_;         // by rank
  int32_t first_merged_ = -1;           // of the first merge, when the ids count up with the ranks as trainers leave them
  std::vector<uint32_t> byte_ranks_;    // of two bytes: first << 8 | second
};

}  // namespace ponte
