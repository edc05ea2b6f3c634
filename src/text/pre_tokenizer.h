// The pre-tokenizer of a tokenizer.json: steps that cut a text into words. Words never overlap and keep their order.
//
// Source: tokenizers/pre_tokenizers (Split, ByteLevel, Digits, Metaspace, Punctuation, Sequence) and NormalizedString::split.
#pragma once
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/regex.h"
#include "text/scanner.h"

namespace ponte {

struct SplitStep {
  enum class Finder { scanner, regex, numeric, punctuation, metaspace };
  enum class Behavior { isolated, removed, contiguous, merged_with_previous, merged_with_next };
  enum class Prepend { never, first, always };
  Finder finder;
  ScanWords scan = nullptr;
  std::optional<Regex> regex = {};
  Behavior behavior = Behavior::isolated;
  bool invert = false;
  // Text put before a piece that does not start with it: ByteLevel's add_prefix_space and Metaspace.
  Prepend prepend = Prepend::never;
  std::string prefix = {};
  std::string replacement = {};  // metaspace: what a space becomes
  bool cuts = true;              // metaspace without split, and ByteLevel without its pattern, only change the text
};

class PreTokenizer {
 public:
  PreTokenizer() = default;
  explicit PreTokenizer(std::vector<SplitStep> steps) : steps_(std::move(steps)) {}

  // The scanner when it is all there is to do, else null.
  ScanWords scanner() const;
  // Words of one stretch of text. `at_start`: the stretch begins where the whole text begins. The views borrow from `text` or `storage`.
  void split(std::string_view text, bool at_start, std::vector<std::string_view>& words, std::deque<std::string>& storage) const;

 private:
  std::vector<SplitStep> steps_;
};

}  // namespace ponte
