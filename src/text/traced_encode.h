// Encoding that says which part of the text each token stands for. Slower than the plain way, and the definition of the order of the steps.
//
// Source: tokenizers/tokenizer (pre_tokenizer.rs, added_vocabulary.rs) and pre_tokenizers/byte_level.rs for trimming.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace ponte {

struct TokenizerState;

struct TokenSpan {
  int32_t id;
  uint32_t begin, end;  // of the text, in the unit asked for; 0, 0 for a token the post-processor added
  bool operator==(const TokenSpan&) const = default;
};

// A post-processor's step that takes white space at either end of a token out of its offsets.
struct OffsetTrim {
  bool add_prefix_space;  // one space at the beginning of the text was put there by the pre-tokenizer
  size_t ids_before;      // how many ids the steps before this one have put before the text
};

// White space at either end of a token as it stands in the normalised text, in characters.
struct TokenSpaces {
  uint32_t leading, trailing;
};
struct TracedTokens {
  std::vector<TokenSpan> tokens;
  std::vector<TokenSpaces> spaces;  // of each token
};

// Tokens of a text of valid UTF-8, without those of the post-processor; begin and end are bytes.
TracedTokens encode_traced(const TokenizerState& state, std::string_view text);

// The trims of the post-processor on offsets in characters. `ids_before`: how many ids it puts before the text, 0 when they are left out.
void trim_offsets(const std::vector<OffsetTrim>& trims, size_t ids_before, TracedTokens& traced);

}  // namespace ponte
