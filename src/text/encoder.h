// One thread's way from text to ids: the pipeline of a TokenizerState with the buffers and the cache that make it fast.
#pragma once
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/word_cache.h"

namespace ponte {

struct TokenizerState;

class Encoder {
 public:
  explicit Encoder(const TokenizerState& state) : state_(state) {}
  // Appends the ids of `text`, without those of the post-processor.
  void encode(std::string_view text, std::vector<int32_t>& ids);

 private:
  void encode_stretch(std::string_view text, bool at_start);
  void encode_words(std::string_view text, bool at_start);

  // The words that end at `ends`, one after the other from `from` on; `text_end`: how far memory may be read.
  void encode_batch(const char* from, std::span<const char* const> ends, const char* text_end);
  void encode_long(std::string_view word, uint64_t hash);  // of more bytes than a slot of the cache
  void append(std::span<const int32_t> ids);
  int32_t* room(size_t ids);  // where the next ids go, with space for so many

  const TokenizerState& state_;
  BpeScratch scratch_;
  WordCache cache_;
  std::vector<int32_t> word_ids_;
  std::unique_ptr<int32_t[]> out_;  // ids of the text at hand
  size_t out_size_ = 0, out_capacity_ = 0;
  std::string valid_, normal_, spare_;
  std::vector<AddedTokenMatcher::Piece> raw_pieces_, pieces_;
  std::vector<std::string_view> words_;
  std::deque<std::string> storage_;
};

}  // namespace ponte
