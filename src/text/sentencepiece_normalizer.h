// The normalizer of a SentencePiece model: a table of rules compiled into a double array, white space made visible, a space put in front.
//
// Source: sentencepiece/src/normalizer.cc; the double array is that of darts-clone.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/prefix_trie.h"

namespace ponte {

class SentencePieceNormalizer {
 public:
  struct Options {
    bool add_dummy_prefix = true, remove_extra_whitespaces = true, escape_whitespaces = true;
    bool whitespace_as_suffix = false;
  };
  // `charsmap`: the rules as the model file holds them, "" for none. `untouched`: texts no rule applies to. Throws UserError naming `origin`.
  SentencePieceNormalizer(std::string_view charsmap, Options options, const std::vector<std::string>& untouched, std::string_view origin);

  // `text` must be UTF-8. `positions`, when asked for: for each byte of `out`, and for its end, where in `text` it comes from.
  void normalize(std::string_view text, std::string& out, std::vector<size_t>* positions) const;

 private:
  // What the beginning of `text` becomes, and how many bytes of it that is about.
  std::string_view rewritten_prefix(std::string_view text, size_t& consumed) const;
  size_t longest_rule(std::string_view text, uint32_t& value) const;

  Options options_;
  std::vector<uint32_t> units_;  // of the double array
  std::string replacements_;     // each ends with a zero byte
  PrefixTrie untouched_;
};

}  // namespace ponte
