// A text under change in which every byte remembers the part of the original it stands for: how offsets survive normalisation.
//
// Source of the semantics: tokenizers/tokenizer/normalizer.rs (NormalizedString: transform, prepend, replace, slice).
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace ponte {

// One character of a changed text, in order: 0 replaces the next character of the old text, 1 is put in addition, -n replaces one and removes n more.
struct TextChange {
  uint32_t code;
  int32_t change;
};

class TracedText {
 public:
  struct Origin {
    uint32_t begin, end;  // bytes of the original
  };
  TracedText() = default;
  explicit TracedText(std::string_view original);  // UTF-8 below 4 GB

  const std::string& text() const { return text_; }
  bool empty() const { return text_.empty(); }
  uint32_t start() const { return start_; }  // where in the original this piece begins
  // What bytes [from, to) of the text stand for.
  Origin origin(size_t from, size_t to) const;

  // The whole text becomes `changes`, `removed_first` characters at its beginning being dropped before the first of them.
  void transform(std::span<const TextChange> changes, size_t removed_first = 0);
  void prepend(std::string_view content);
  // Each match, ascending and apart, becomes `content`.
  void replace(std::span<const std::pair<size_t, size_t>> matches, std::string_view content);
  void keep(size_t from, size_t to);  // drops what is outside
  // Another text, of whose byte i says positions[i] which byte of this text it comes from; one position more for the end.
  void assign(std::string text, std::span<const size_t> positions);
  TracedText slice(size_t from, size_t to) const;

 private:
  std::string text_;
  std::vector<Origin> origins_;  // of each byte of text_
  uint32_t start_ = 0;
};

}  // namespace ponte
