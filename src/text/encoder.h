// One thread's way from text to ids: the pipeline of a TokenizerState with the buffers and the cache that make it fast.
#pragma once
#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "text/added_tokens.h"
#include "text/bpe.h"

namespace ponte {

struct TokenizerState;

class Encoder {
 public:
  explicit Encoder(const TokenizerState& state) : state_(state) {}
  // Appends the ids of `text`, without those of the post-processor.
  void encode(std::string_view text, std::vector<int32_t>& ids);

 private:
  void encode_stretch(std::string_view text, bool at_start, std::vector<int32_t>& ids);
  void encode_words(std::string_view text, bool at_start, std::vector<int32_t>& ids);

  const TokenizerState& state_;
  BpeScratch scratch_;
  std::string valid_, normal_, spare_;
  std::vector<AddedTokenMatcher::Piece> raw_pieces_, pieces_;
  std::vector<std::string_view> words_;
  std::deque<std::string> storage_;
};

}  // namespace ponte
