#include "text/encoder.h"

#include <algorithm>
#include <array>

#include "text/tokenizer_state.h"
#include "text/unicode.h"

namespace ponte {
namespace {

constexpr size_t kBatch = 256;  // words looked up together, so that their memory accesses overlap

}  // namespace

void Encoder::encode(std::string_view text, std::vector<int32_t>& ids) {
  if (!unicode::is_valid(text)) {
    valid_.clear();
    unicode::append_lossy(valid_, text);
    text = valid_;
  }
  if (state_.needs_trace) {
    for (const TokenSpan& token : encode_traced(state_, text).tokens) ids.push_back(token.id);
    return;
  }
  out_size_ = 0;
  raw_pieces_.clear();
  state_.raw_tokens.split(text, raw_pieces_);
  for (const auto& piece : raw_pieces_) {
    if (piece.id != AddedTokenMatcher::kText) *room(1) = piece.id, ++out_size_;
    else encode_stretch(piece.text, piece.text.data() == text.data());
  }
  ids.insert(ids.end(), out_.get(), out_.get() + out_size_);
}

int32_t* Encoder::room(size_t ids) {
  if (out_size_ + ids > out_capacity_) {
    const size_t capacity = std::max(out_size_ + ids, out_capacity_ * 2 + 1024);
    std::unique_ptr<int32_t[]> larger(new int32_t[capacity]);
    std::copy_n(out_.get(), out_size_, larger.get());
    out_ = std::move(larger);
    out_capacity_ = capacity;
  }
  return out_.get() + out_size_;
}

// A stretch without raw added tokens: normalise, take out the normalised ones, and encode what is between.
void Encoder::encode_stretch(std::string_view text, bool at_start) {
  if (!state_.normalizer.empty()) text = state_.normalizer.apply(text, normal_, spare_);
  if (state_.normalized_tokens.empty()) return encode_words(text, at_start);
  pieces_.clear();
  state_.normalized_tokens.split(text, pieces_);
  for (const auto& piece : pieces_) {
    if (piece.id != AddedTokenMatcher::kText) *room(1) = piece.id, ++out_size_;
    else encode_words(piece.text, at_start && piece.text.data() == text.data());
  }
}

void Encoder::encode_words(std::string_view text, bool at_start) {
  if (const ScanWords scan = state_.pre_tokenizer.scanner()) {
    std::array<const char*, kBatch> ends;
    const char *at = text.data(), *end = at + text.size(), *from = at;
    while (at < end) {
      const size_t n = scan(at, end, ends.data(), ends.size());
      encode_batch(from, {ends.data(), n}, end);
      from = at;
    }
    return;
  }
  storage_.clear();
  state_.pre_tokenizer.split(text, at_start, words_, storage_);
  // Words that lie one behind the other go together.
  std::array<const char*, kBatch> ends;
  for (size_t i = 0; i < words_.size();) {
    const char *const from = words_[i].data(), *at = from;
    size_t n = 0;
    for (; n < kBatch && i < words_.size() && words_[i].data() == at; ++i) ends[n++] = at = at + words_[i].size();
    encode_batch(from, {ends.data(), n}, at);
  }
}

void Encoder::encode_batch(const char* from, std::span<const char* const> ends, const char* text_end) {
  struct Word {
    WordCache::Key key;
    uint64_t hash;
  };
  std::array<Word, kBatch> words;
  const char* at = from;
  for (size_t i = 0; i < ends.size(); at = ends[i++]) {
    const auto size = static_cast<size_t>(ends[i] - at);
    if (size > WordCache::kShort) {
      if (size <= WordCache::kLong) words[i].hash = WordCache::hash_long({at, size}), cache_.prefetch_long(words[i].hash);
      continue;
    }
    words[i].key = WordCache::key(at, size, static_cast<size_t>(text_end - at));
    words[i].hash = WordCache::hash(words[i].key);
    cache_.prefetch(words[i].hash);
  }
  int32_t* out = room(4 * ends.size());
  at = from;
  for (size_t i = 0; i < ends.size(); at = ends[i++]) {
    const auto size = static_cast<size_t>(ends[i] - at);
    if (size <= WordCache::kShort) {
      if (const WordCache::Slot* slot = cache_.find(words[i].key, words[i].hash)) [[likely]] {
        if (const size_t n = WordCache::count(*slot); n <= WordCache::kInSlot) [[likely]] {
          std::memcpy(out, slot->ids, sizeof(slot->ids));
          out += n;
          continue;
        }
        out_size_ = static_cast<size_t>(out - out_.get());
        append(cache_.ids(*slot));
        out = room(4 * (ends.size() - i));
        continue;
      }
    }
    out_size_ = static_cast<size_t>(out - out_.get());
    if (size <= WordCache::kShort) {
      word_ids_.clear();
      state_.model->encode({at, size}, scratch_, word_ids_);
      append(word_ids_);
      cache_.insert(words[i].key, words[i].hash, word_ids_);
    } else {
      encode_long({at, size}, words[i].hash);
    }
    out = room(4 * (ends.size() - i));
  }
  out_size_ = static_cast<size_t>(out - out_.get());
}

void Encoder::append(std::span<const int32_t> ids) {
  std::copy(ids.begin(), ids.end(), room(ids.size()));
  out_size_ += ids.size();
}

// `hash`: hash_long() of the word when it is not too long to be kept.
void Encoder::encode_long(std::string_view word, uint64_t hash) {
  const bool kept = word.size() <= WordCache::kLong;
  if (kept)
    if (const auto known = cache_.find_long(word, hash); !known.empty()) return append(known);
  word_ids_.clear();
  state_.model->encode(word, scratch_, word_ids_);
  append(word_ids_);
  if (kept && !word_ids_.empty()) cache_.insert_long(word, hash, word_ids_);
}

}  // namespace ponte
