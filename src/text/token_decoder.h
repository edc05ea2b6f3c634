// The decoder of a tokenizer.json: token spellings to text, whole or as a stream.
//
// Source: tokenizers/decoders (ByteLevel, ByteFallback, Fuse, Replace, Strip, Metaspace, Sequence).
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace ponte {

class Regex;

struct DecodeStep {
  enum class Kind { byte_level, byte_fallback, fuse, replace, strip, metaspace };
  Kind kind;
  std::string pattern = {}, content = {};  // replace; strip: `content` is the character; metaspace: `pattern` is the mark
  int64_t start = 0, stop = 0;             // strip: how many at either end
  bool drops_first = false;                // metaspace: marks of the first token vanish
  std::shared_ptr<const Regex> regex = {}; // replace: instead of `pattern`
};

// The text of a list of tokens. No steps at all: the spellings with a space between them, as `tokenizers` does without a decoder.
std::string decode_tokens(const std::vector<DecodeStep>& steps, std::vector<std::string> tokens);

// decode_tokens() as the tokens come. push() returns the text that no later token can change.
class TokenStream {
 public:
  explicit TokenStream(const std::vector<DecodeStep>& steps);
  std::string push(std::string_view token);
  std::string finish();

 private:
  enum class Enter { first, behind_fallback };
  std::string plain(std::string token, Enter enter);
  std::string flush_bytes();

  enum class Mode { bytes, tokens, whole };  // whole: the steps need all tokens at once, so everything comes at the end
  const std::vector<DecodeStep>* steps_;
  Mode mode_;
  std::string bytes_;               // of an unfinished character, or of a run of <0xXX> tokens
  std::vector<std::string> tokens_; // whole
  bool byte_fallback_ = false, first_ = true;
  int64_t to_strip_ = 0;
  char strip_ = ' ';
};

}  // namespace ponte
