#include "text/traced_encode.h"

#include <algorithm>

#include "text/tokenizer_state.h"
#include "text/traced_text.h"
#include "text/unicode.h"

namespace ponte {
namespace {

// White space, or the space of GPT-2's alphabet.
bool counts_as_space(const char* at) {
  const uint32_t code = unicode::decode(at).code;
  return code == 0x120 || (unicode::tables().classes_of(code) & unicode::kSpace);
}

TokenSpaces spaces_of(std::string_view token) {
  const char *begin = token.data(), *end = begin + token.size();
  TokenSpaces out{0, 0};
  for (const char* p = begin; p < end && counts_as_space(p); p += unicode::decode(p).bytes) ++out.leading;
  for (const char* p = end; p > begin && counts_as_space(unicode::previous(p)); p = unicode::previous(p)) ++out.trailing;
  return out;
}

class TracedEncoder {
 public:
  explicit TracedEncoder(const TokenizerState& state) : state_(state) {}

  TracedTokens encode(std::string_view text) {
    split(TracedText(text), state_.raw_tokens, [this](TracedText piece) {
      state_.normalizer.apply(piece);
      split(piece, state_.normalized_tokens, [this](TracedText stretch) {
        for (TracedText& word : state_.pre_tokenizer.split(std::move(stretch))) encode_word(word);
      });
    });
    return std::move(out_);
  }

 private:
  // Tokens of `matcher` in the text, and what is between them handed to `between`.
  template <class Between>
  void split(const TracedText& text, const AddedTokenMatcher& matcher, Between&& between) {
    std::vector<AddedTokenMatcher::Piece> pieces;
    matcher.split(text.text(), pieces);
    for (const auto& piece : pieces) {
      const auto from = static_cast<size_t>(piece.text.data() - text.text().data()), to = from + piece.text.size();
      if (from == to) continue;
      if (piece.id == AddedTokenMatcher::kText) between(text.slice(from, to));
      else put(piece.id, text.origin(from, to), piece.text);
    }
  }

  void encode_word(TracedText& word) {
    static const Normalizer speller({{NormalizeStep::Kind::byte_level}});
    if (state_.model->options().byte_level) speller.apply(word);
    ids_.clear();
    lengths_.clear();
    state_.model->encode_spelled(word.text(), scratch_, ids_, lengths_);
    size_t at = 0;
    for (size_t i = 0; i < ids_.size(); at += lengths_[i++])
      put(ids_[i], word.origin(at, at + lengths_[i]), state_.spelling[static_cast<size_t>(ids_[i])]);
  }

  void put(int32_t id, TracedText::Origin origin, std::string_view text) {
    out_.tokens.push_back({id, origin.begin, origin.end});
    out_.spaces.push_back(spaces_of(text));
  }

  const TokenizerState& state_;
  BpeScratch scratch_;
  std::vector<int32_t> ids_;
  std::vector<uint32_t> lengths_;
  TracedTokens out_;
};

}  // namespace

TracedTokens encode_traced(const TokenizerState& state, std::string_view text) { return TracedEncoder(state).encode(text); }

void trim_offsets(const std::vector<OffsetTrim>& trims, size_t ids_before, TracedTokens& traced) {
  for (const OffsetTrim& trim : trims)
    for (size_t i = 0; i < traced.tokens.size(); ++i) {
      auto [leading, trailing] = traced.spaces[i];
      auto& [id, from, to] = traced.tokens[i];
      const bool first = i + std::min(trim.ids_before, ids_before) == 0 || from == 0;
      if (first && trim.add_prefix_space && leading == 1) leading = 0;
      if (leading) from = std::min(from + leading, to);
      if (trailing && to >= trailing) to = std::max(to - trailing, from);
    }
}

}  // namespace ponte
