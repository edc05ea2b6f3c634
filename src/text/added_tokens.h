// Tokens on top of the model's vocabulary that are cut out of a text before anything else looks at it.
//
// Source: tokenizers/tokenizer/added_vocabulary.rs (leftmost-longest matching; single_word, lstrip, rstrip, normalized, special).
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/prefix_trie.h"

namespace ponte {

struct AddedToken {
  std::string content;
  int32_t id = -1;
  bool single_word = false, lstrip = false, rstrip = false, normalized = true, special = false;
};

// Finds one group of added tokens in a text.
class AddedTokenMatcher {
 public:
  AddedTokenMatcher() = default;
  // `spellings[i]` is what tokens[i] looks like in the text (its content, or its normalised content).
  AddedTokenMatcher(const std::vector<AddedToken>& tokens, const std::vector<std::string>& spellings);
  bool empty() const { return trie_.empty(); }

  struct Piece {
    int32_t id;  // kText for the text between tokens
    std::string_view text;
  };
  static constexpr int32_t kText = -1;
  // The pieces of `text` in order, appended; of an empty text nothing.
  void split(std::string_view text, std::vector<Piece>& pieces) const;

 private:
  const char* next_start(const char* at, const char* end) const;

  std::vector<AddedToken> tokens_;
  PrefixTrie trie_;  // index into tokens_
  std::array<bool, 256> starts_{};
  int only_start_ = -1;  // when all tokens begin with the same byte
};

}  // namespace ponte
