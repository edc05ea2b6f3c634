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
#include "text/prefix_trie.h"
#include "text/token_table.h"

namespace ponte {

struct BpeOptions {
  bool byte_level = false;     // the vocabulary spells bytes by GPT-2's alphabet; words are looked up by their bytes
  bool byte_fallback = false;  // characters outside the vocabulary become <0xXX> tokens
  bool fuse_unknown = false;   // neighbouring unknown characters become one unknown token
  bool ignore_merges = false;  // a word that is itself a token is that token
  std::optional<std::string> unknown_token;
};

// A merge by ids. Merges of one rank give the same result; of two that apply, the lower rank goes first, then the one further left.
struct BpeMerge {
  int32_t left, right, result;
  uint32_t rank;
};

// What a SentencePiece model has beside its vocabulary: not every token is a text that merging may give.
struct BpeSymbols {
  TokenTable texts;             // ids of the characters merging begins with, and of what it gives
  PrefixTrie whole;             // texts taken whole before anything is merged, with their ids
  int32_t first_unknown = -1;   // ids from here on stand for characters without a token, by spelling in `texts`
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
  Bpe(TokenTable vocabulary, BpeSymbols symbols, const std::vector<BpeMerge>& merges, BpeOptions options);

  const TokenTable& vocabulary() const { return vocabulary_; }
  const BpeOptions& options() const { return options_; }
  // Appends the ids of one word (well-formed UTF-8, any length) to `ids`.
  void encode(std::string_view word, BpeScratch& scratch, std::vector<int32_t>& ids) const;
  // The same for a word that is spelled as the vocabulary spells it, with how many bytes of it each id stands for. Not made for speed.
  void encode_spelled(std::string_view word, BpeScratch& scratch, std::vector<int32_t>& ids, std::vector<uint32_t>& lengths) const;
  // Whether a text may be cut before each run of `mark` without any id changing: no token has `mark` behind another character.
  bool may_cut_before(std::string_view mark) const;

 private:
  static constexpr uint32_t kNoRank = UINT32_MAX, kNoKey = INT32_MAX;
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

  std::vector<BpeMerge> named_merges(const std::vector<std::pair<std::string_view, std::string_view>>& merges) const;
  void build(const std::vector<BpeMerge>& merges);
  void add_merge(const BpeMerge& merge);
  int32_t find_character(std::string_view character) const;
  // `lengths`, when asked for: bytes of the word each symbol stands for.
  void symbols_of_characters(std::string_view word, std::vector<int32_t>& symbols, std::vector<uint32_t>* lengths) const;
  bool fall_back(std::string_view character, std::vector<int32_t>& symbols) const;
  void resolve_unknown(std::vector<int32_t>& symbols, std::vector<uint32_t>* lengths) const;
  static constexpr size_t kShortWord = 64, kMediumWord = 256;  // symbols; beyond, a heap beats looking for the lowest rank
  size_t merge_short(int32_t* symbols, uint32_t* keys, size_t n) const;
  void encode_short_bytes(std::string_view word, std::vector<int32_t>& ids) const;
  void merge_medium(std::vector<int32_t>& symbols) const;
  void merge_long(std::vector<int32_t>& symbols, BpeScratch& scratch, std::vector<uint32_t>* lengths) const;

  TokenTable vocabulary_;
  std::optional<BpeSymbols> symbols_;   // of a SentencePiece model
  std::vector<std::string> unknown_characters_;  // by id - symbols_->first_unknown
  BpeOptions options_;
  int32_t unknown_ = TokenTable::kNone;
  std::array<int32_t, 128> ascii_ids_;  // of the characters below 128
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
