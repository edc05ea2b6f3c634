// The normalizer of a tokenizer.json: a list of steps from text to text. NFC looks first and copies only what it must change.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace ponte {

struct NormalizeStep {
  enum class Kind { nfc, nfd, nfkc, nfkd, replace, prepend, strip_left, strip_right };
  Kind kind;
  std::string pattern = {}, content = {};  // replace: each `pattern` becomes `content`; prepend: `content` before a text that is not empty
};

class Normalizer {
 public:
  Normalizer() = default;
  explicit Normalizer(std::vector<NormalizeStep> steps) : steps_(std::move(steps)) {}
  bool empty() const { return steps_.empty(); }
  // `text` must be UTF-8. Returns `text` itself when nothing changes, else a view into `buffer` or `spare`.
  std::string_view apply(std::string_view text, std::string& buffer, std::string& spare) const;

 private:
  std::vector<NormalizeStep> steps_;
};

}  // namespace ponte
