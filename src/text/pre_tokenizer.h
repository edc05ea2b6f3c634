// The pre-tokenizer of a tokenizer.json: steps that cut a text into words. Words never overlap and keep their order.
//
// Source: tokenizers/pre_tokenizers and NormalizedString::split.
#pragma once
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/regex.h"
#include "text/scanner.h"

namespace ponte {

class TracedText;

struct SplitStep {
  // What is found: words of a scanner, matches of a pattern, characters of a class, runs of word characters or of others, stretches of one length.
  enum class Finder { scanner, regex, numeric, punctuation, whitespace, character, words, fixed_length };
  enum class Behavior { isolated, removed, contiguous, merged_with_previous, merged_with_next };
  enum class Prepend { never, first, always };
  Finder finder;
  ScanWords scan = nullptr;
  std::optional<Regex> regex = {};
  std::string pattern = {};   // what scan or regex was made from
  uint32_t character = 0;     // the one to be found
  size_t length = 0;          // of a stretch, in characters
  Behavior behavior = Behavior::isolated;
  bool invert = false;
  // Text put before a piece that does not start with it: ByteLevel's add_prefix_space and Metaspace.
  Prepend prepend = Prepend::never;
  std::string prefix = {};
  std::string replacement = {};  // Metaspace: what a space becomes
  bool cuts = true;              // Metaspace without split, and ByteLevel without its pattern, only change the text
  bool spells = false;           // ByteLevel before other steps: the bytes of its pieces are spelled in GPT-2's alphabet
};

class PreTokenizer {
 public:
  PreTokenizer() = default;
  explicit PreTokenizer(std::vector<SplitStep> steps) : steps_(std::move(steps)) {}

  // The scanner when it is all there is to do, else null.
  ScanWords scanner() const;
  // Whether a step asks if its piece stands at the beginning of the text: the first step, or one whose pieces others have made.
  enum class Asks { never, first, late };
  Asks asks_for_beginning() const;
  // Words of one stretch of text. `at_start`: the stretch begins where the whole text begins. The views borrow from `text` or `storage`.
  void split(std::string_view text, bool at_start, std::vector<std::string_view>& words, std::deque<std::string>& storage) const;
  // The same for a text that keeps track of where it comes from.
  std::vector<TracedText> split(TracedText text) const;

 private:
  std::vector<SplitStep> steps_;
};

}  // namespace ponte
