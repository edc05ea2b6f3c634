#include "text/bpe.h"

#include <algorithm>

#include "base/errors.h"
#include "text/unicode.h"

namespace ponte {
namespace {

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
    : vocabulary_(std::move(vocabulary)), options_(std::move(options)), pairs_(0) {
  vocabulary_.for_each([&](std::string_view token, int32_t id) {
    require(id >= 0 && id < (1 << kIdBits) - 1, "tokenizer: id {} of token '{}', wanted 0 to {}", id, token, (1 << kIdBits) - 2);
  });
  build(named_merges(merges));
}

Bpe::Bpe(TokenTable vocabulary, BpeSymbols symbols, const std::vector<BpeMerge>& merges, BpeOptions options)
    : vocabulary_(std::move(vocabulary)), symbols_(std::move(symbols)), options_(std::move(options)), pairs_(0) {
  symbols_->texts.for_each([&](std::string_view text, int32_t id) {
    require(id < (1 << kIdBits) - 1, "tokenizer: more than {} tokens and characters", (1 << kIdBits) - 2);
    if (id < symbols_->first_unknown) return;
    unknown_characters_.resize(std::max(unknown_characters_.size(), static_cast<size_t>(id - symbols_->first_unknown) + 1));
    unknown_characters_[static_cast<size_t>(id - symbols_->first_unknown)] = text;
  });
  build(merges);
}

std::vector<BpeMerge> Bpe::named_merges(const std::vector<std::pair<std::string_view, std::string_view>>& merges) const {
  std::vector<BpeMerge> out;
  out.reserve(merges.size());
  std::string result;
  for (size_t i = 0; i < merges.size(); ++i) {
    const auto& [left, right] = merges[i];
    result.assign(left).append(right);
    const BpeMerge merge{vocabulary_.find(left), vocabulary_.find(right), vocabulary_.find(result), static_cast<uint32_t>(i)};
    for (const auto& [token, id] : {std::pair<std::string_view, int32_t>{left, merge.left}, {right, merge.right}, {result, merge.result}})
      require(id != TokenTable::kNone, "tokenizer: merge {} ('{}' + '{}') needs token '{}', which is not in the vocabulary", i + 1, left, right, token);
    out.push_back(merge);
  }
  return out;
}

void Bpe::build(const std::vector<BpeMerge>& merges) {
  require(merges.size() < kRankMask, "tokenizer: {} merges, at most {} are supported", merges.size(), kRankMask - 1);
  if (options_.unknown_token) {
    unknown_ = vocabulary_.find(*options_.unknown_token);
    require(unknown_ != TokenTable::kNone, "tokenizer: unk_token '{}' is not in the vocabulary", *options_.unknown_token);
  }
  size_t buckets = 16;
  while (buckets * kBucket < merges.size() * 2) buckets *= 2;
  pairs_ = PageArray<uint64_t>(buckets * kBucket);
  std::fill(pairs_.begin(), pairs_.end(), kFree);
  bucket_mask_ = buckets - 1;
  pair_shift_ = 64 - __builtin_ctzll(buckets);
  present_.assign(buckets / 4, 0);
  present_mask_ = present_.size() - 1;
  for (const BpeMerge& merge : merges) add_merge(merge);
  bool counts_up = !merged_.empty();
  for (size_t i = 0; i < merged_.size(); ++i) counts_up = counts_up && merged_[i] == merged_[0] + static_cast<int32_t>(i);
  first_merged_ = counts_up ? merged_[0] : -1;
  for (size_t c = 0; c < ascii_ids_.size(); ++c) ascii_ids_[c] = (symbols_ ? symbols_->texts : vocabulary_).find(std::string(1, static_cast<char>(c)));
  all_bytes_ = options_.byte_level;
  for (size_t b = 0; b < 256; ++b) {
    byte_ids_[b] = vocabulary_.find(byte_spelling()[b]);
    all_bytes_ = all_bytes_ && byte_ids_[b] != TokenTable::kNone;
  }
  byte_ranks_.assign(1 << 16, kNoRank);
  for (size_t i = 0; all_bytes_ && i < byte_ranks_.size(); ++i) byte_ranks_[i] = rank_of(byte_ids_[i >> 8], byte_ids_[i & 255]);
  if (options_.ignore_merges && options_.byte_level) {
    std::string bytes;
    vocabulary_.for_each([&](std::string_view token, int32_t id) {
      if (spelled_bytes(token, bytes)) words_.insert(bytes, id);
    });
  }
}

void Bpe::add_merge(const BpeMerge& merge) {
  if (merged_.size() <= merge.rank) merged_.resize(merge.rank + 1, merge.result);
  merged_[merge.rank] = merge.result;
  const uint64_t key = static_cast<uint64_t>(merge.left) << kIdBits | static_cast<uint64_t>(merge.right);
  const uint64_t hash = pair_hash(merge.left, merge.right);
  present_[(hash >> 26) & present_mask_] |= uint64_t{1} << (hash >> 20 & 63);
  size_t at = (hash >> pair_shift_) * kBucket;  // of a pair named twice the later rank counts
  while (pairs_[at] != kFree && pairs_[at] >> kRankBits != key) at = (at + 1) & (bucket_mask_ * kBucket + kBucket - 1);
  pairs_[at] = key << kRankBits | merge.rank;
}

bool Bpe::may_cut_before(std::string_view mark) const {
  bool out = !options_.ignore_merges && !options_.byte_level && find_character(mark) != TokenTable::kNone;
  if (symbols_ && find_character(mark) >= symbols_->first_unknown) out = false;
  vocabulary_.for_each([&](std::string_view token, int32_t) {
    for (size_t at = token.find(mark); out && at != std::string_view::npos; at = token.find(mark, at + mark.size()))
      out = at == 0 || token.substr(0, at).ends_with(mark);
  });
  return out;
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

int32_t Bpe::find_character(std::string_view character) const {
  if (character.size() == 1) return ascii_ids_[static_cast<uint8_t>(character[0])];
  return (symbols_ ? symbols_->texts : vocabulary_).find(character);
}

// As BPE::merge_word: a pending unknown token is written only when a known character follows, or at the end.
void Bpe::symbols_of_characters(std::string_view word, std::vector<int32_t>& symbols, std::vector<uint32_t>* lengths) const {
  uint32_t pending = 0;  // bytes of it
  const auto put = [&](int32_t id, uint32_t bytes) {
    symbols.push_back(id);
    if (lengths) lengths->push_back(bytes);
  };
  const auto put_pending = [&] {
    if (pending) put(unknown_, pending);
    pending = 0;
  };
  for (const char *at = word.data(), *end = at + word.size(); at < end;) {
    int32_t id = TokenTable::kNone;
    size_t bytes = symbols_ ? symbols_->whole.longest(at, end, id) : 0;
    if (!bytes) {
      bytes = unicode::decode(at).bytes;
      id = find_character({at, bytes});
    }
    const std::string_view character(at, bytes);
    at += bytes;
    if (id != TokenTable::kNone) {
      put_pending();
      put(id, static_cast<uint32_t>(bytes));
    } else if (options_.byte_fallback && fall_back(character, symbols)) {
      if (lengths) lengths->insert(lengths->end(), bytes, 1);
    } else if (unknown_ != TokenTable::kNone) {
      if (!options_.fuse_unknown) put_pending();
      pending += static_cast<uint32_t>(bytes);
    }
  }
  put_pending();
}

// Characters that only merging knew, and that it left alone: bytes, or the unknown token, one for neighbours.
void Bpe::resolve_unknown(std::vector<int32_t>& symbols, std::vector<uint32_t>* lengths) const {
  if (unknown_characters_.empty()) return;
  std::vector<int32_t> out;
  std::vector<uint32_t> out_lengths;
  for (size_t i = 0; i < symbols.size(); ++i) {
    const uint32_t bytes = lengths ? (*lengths)[i] : 0;
    if (symbols[i] < symbols_->first_unknown && !(symbols[i] == unknown_ && !out.empty() && out.back() == unknown_)) {
      out.push_back(symbols[i]), out_lengths.push_back(bytes);
      continue;
    }
    const std::string* character = symbols[i] == unknown_ ? nullptr : &unknown_characters_[static_cast<size_t>(symbols[i] - symbols_->first_unknown)];
    if (character && options_.byte_fallback && fall_back(*character, out)) out_lengths.insert(out_lengths.end(), character->size(), 1);
    else if (!out.empty() && out.back() == unknown_) out_lengths.back() += bytes;
    else out.push_back(unknown_), out_lengths.push_back(bytes);
  }
  symbols = std::move(out);
  if (lengths) *lengths = std::move(out_lengths);
}

void Bpe::encode_spelled(std::string_view word, BpeScratch& scratch, std::vector<int32_t>& ids, std::vector<uint32_t>& lengths) const {
  if (word.empty()) return;
  if (options_.ignore_merges)
    if (const int32_t id = vocabulary_.find(word); id != TokenTable::kNone) {
      ids.push_back(id), lengths.push_back(static_cast<uint32_t>(word.size()));
      return;
    }
  scratch.symbols.clear();
  std::vector<uint32_t> symbol_lengths;
  symbols_of_characters(word, scratch.symbols, &symbol_lengths);
  merge_long(scratch.symbols, scratch, &symbol_lengths);
  resolve_unknown(scratch.symbols, &symbol_lengths);
  ids.insert(ids.end(), scratch.symbols.begin(), scratch.symbols.end());
  lengths.insert(lengths.end(), symbol_lengths.begin(), symbol_lengths.end());
}

void Bpe::encode(std::string_view word, BpeScratch& scratch, std::vector<int32_t>& ids) const {
  if (word.empty()) return;
  if (options_.ignore_merges) {
    const int32_t id = (options_.byte_level ? words_ : vocabulary_).find(word);
    if (id != TokenTable::kNone) return ids.push_back(id);
  }
  if (all_bytes_ && word.size() <= kShortWord) return encode_short_bytes(word, ids);
  std::vector<int32_t>& symbols = scratch.symbols;
  symbols.clear();
  if (all_bytes_) {
    symbols.resize(word.size());
    for (size_t i = 0; i < word.size(); ++i) symbols[i] = byte_ids_[static_cast<uint8_t>(word[i])];
  } else if (options_.byte_level) {
    scratch.spelled.clear();
    for (const char c : word) scratch.spelled += byte_spelling()[static_cast<uint8_t>(c)];
    symbols_of_characters(scratch.spelled, symbols, nullptr);
  } else {
    symbols_of_characters(word, symbols, nullptr);
  }
  if (symbols.size() > kMediumWord) {
    merge_long(symbols, scratch, nullptr);
  } else if (symbols.size() > kShortWord) {
    merge_medium(symbols);
  } else if (symbols.size() > 1) {
    alignas(16) uint32_t keys[kShortWord];
    std::fill(std::begin(keys), std::end(keys), kNoKey);
    for (size_t i = 0; i + 1 < symbols.size(); ++i)
      if (const uint32_t rank = rank_of(symbols[i], symbols[i + 1]); rank != kNoRank) keys[i] = rank << 6 | static_cast<uint32_t>(i);
    symbols.resize(merge_short(symbols.data(), keys, symbols.size()));
  }
  if (symbols_) resolve_unknown(symbols, nullptr);
  ids.insert(ids.end(), symbols.begin(), symbols.end());
}

}  // namespace ponte
