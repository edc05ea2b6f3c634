// The normalizer of a tokenizer.json: a list of steps from text to text. NFC looks first and copies only what it must change.
//
// Source: tokenizers/normalizers; `sentencepiece` is the normalizer inside a tokenizer.model.
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace ponte {

class Regex;
class SentencePieceNormalizer;
class TracedText;

struct NormalizeStep {
  enum class Kind { nfc, nfd, nfkc, nfkd, replace, prepend, strip_left, strip_right, lowercase, strip_accents, nmt, byte_level, sentencepiece };
  Kind kind;
  std::string pattern = {}, content = {};      // replace: each `pattern` becomes `content`; prepend: `content` before a text that is not empty
  std::shared_ptr<const Regex> regex = {};     // replace: instead of `pattern`
  std::shared_ptr<const SentencePieceNormalizer> sentencepiece = {};
};

class Normalizer {
 public:
  Normalizer() = default;
  explicit Normalizer(std::vector<NormalizeStep> steps) : steps_(std::move(steps)) {}
  bool empty() const { return steps_.empty(); }
  // `text` must be UTF-8. Returns `text` itself when nothing changes, else a view into `buffer` or `spare`.
  std::string_view apply(std::string_view text, std::string& buffer, std::string& spare) const;
  // The same, keeping track of where everything comes from.
  void apply(TracedText& text) const;
  // Whether the first character of a normalised text always stands for the first of the text.
  bool keeps_beginning() const;

 private:
  std::vector<NormalizeStep> steps_;
};

// The canonical composition of a text: `text` itself, or a view into `buffer`.
std::string_view to_nfc(std::string_view text, std::string& buffer);
// Any of the forms, appended; of a text that is UTF-8.
void append_normal_form(std::string& out, std::string_view text, NormalizeStep::Kind form);

}  // namespace ponte
