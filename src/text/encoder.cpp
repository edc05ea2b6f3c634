#include "text/encoder.h"

#include <array>

#include "text/tokenizer_state.h"
#include "text/unicode.h"

namespace ponte {

void Encoder::encode(std::string_view text, std::vector<int32_t>& ids) {
  if (!unicode::is_valid(text)) {
    valid_.clear();
    unicode::append_lossy(valid_, text);
    text = valid_;
  }
  raw_pieces_.clear();
  state_.raw_tokens.split(text, raw_pieces_);
  for (const auto& piece : raw_pieces_) {
    if (piece.id != AddedTokenMatcher::kText) ids.push_back(piece.id);
    else encode_stretch(piece.text, piece.text.data() == text.data(), ids);
  }
}

// A stretch without raw added tokens: normalise, take out the normalised ones, and encode what is between.
void Encoder::encode_stretch(std::string_view text, bool at_start, std::vector<int32_t>& ids) {
  if (!state_.normalizer.empty()) text = state_.normalizer.apply(text, normal_, spare_);
  if (state_.normalized_tokens.empty()) return encode_words(text, at_start, ids);
  pieces_.clear();
  state_.normalized_tokens.split(text, pieces_);
  for (const auto& piece : pieces_) {
    if (piece.id != AddedTokenMatcher::kText) ids.push_back(piece.id);
    else encode_words(piece.text, at_start && piece.text.data() == text.data(), ids);
  }
}

void Encoder::encode_words(std::string_view text, bool at_start, std::vector<int32_t>& ids) {
  if (const ScanWords scan = state_.pre_tokenizer.scanner()) {
    std::array<const char*, 256> ends;
    const char *at = text.data(), *end = at + text.size(), *from = at;
    while (at < end)
      for (size_t i = 0, n = scan(at, end, ends.data(), ends.size()); i < n; from = ends[i++])
        state_.model->encode({from, ends[i]}, scratch_, ids);
    return;
  }
  storage_.clear();
  state_.pre_tokenizer.split(text, at_start, words_, storage_);
  for (const std::string_view word : words_) state_.model->encode(word, scratch_, ids);
}

}  // namespace ponte
