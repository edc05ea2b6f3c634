// A SentencePiece model into a TokenizerState: ids as SentencePiece gives them, special tokens as tokenizer_config.json names them.
//
// Source: sentencepiece/src/bpe_model.cc. The pair whose piece has the highest score is merged first, so scores become ranks of merges.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/errors.h"
#include "base/json.h"
#include "text/encoder.h"
#include "text/sentencepiece_model.h"
#include "text/sentencepiece_normalizer.h"
#include "text/tokenizer_state.h"
#include "text/unicode.h"

namespace ponte {
namespace {

using PieceType = SentencePieceModel::PieceType;

TokenTable vocabulary_of(const SentencePieceModel& model) {
  TokenTable out;
  size_t bytes = 0;
  for (const auto& piece : model.pieces) bytes += piece.text.size();
  out.reserve(model.pieces.size(), bytes);
  for (size_t i = 0; i < model.pieces.size(); ++i) out.insert(model.pieces[i].text, static_cast<int32_t>(i));
  return out;
}

template <class Visit>
void for_each_character(std::string_view text, Visit&& visit) {
  for (size_t at = 0; at < text.size();) {
    const size_t bytes = unicode::decode(text.data() + at).bytes;
    visit(at, text.substr(at, bytes));
    at += bytes;
  }
}

BpeSymbols symbols_of(const SentencePieceModel& model, std::string_view origin) {
  BpeSymbols out;
  out.first_unknown = static_cast<int32_t>(model.pieces.size());
  for (size_t i = 0; i < model.pieces.size(); ++i) {
    const auto& piece = model.pieces[i];
    require(piece.type != PieceType::unused, "{}: piece '{}' is marked unused, which is not supported", origin, piece.text);
    if (piece.type == PieceType::user_defined) out.whole.insert(piece.text, static_cast<int32_t>(i));
    if (piece.type == PieceType::normal) out.texts.insert(piece.text, static_cast<int32_t>(i));
  }
  int32_t next = out.first_unknown;
  for (const auto& piece : model.pieces)
    if (piece.type == PieceType::normal)
      for_each_character(piece.text, [&](size_t, std::string_view character) {
        if (out.texts.find(character) == TokenTable::kNone) out.texts.insert(character, next++);
      });
  return out;
}

std::vector<BpeMerge> merges_of(const SentencePieceModel& model, const BpeSymbols& symbols, std::string_view origin) {
  std::vector<int32_t> order;
  std::vector<BpeMerge> out;
  for (size_t i = 0; i < model.pieces.size(); ++i)
    if (model.pieces[i].type == PieceType::normal) order.push_back(static_cast<int32_t>(i));
  const auto score = [&](int32_t id) { return model.pieces[static_cast<size_t>(id)].score; };
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return score(a) > score(b); });
  int32_t previous = -1;
  uint32_t rank = 0;
  for (const int32_t id : order) {
    const std::string_view text = model.pieces[static_cast<size_t>(id)].text;
    const size_t before = out.size();
    for_each_character(text, [&](size_t at, std::string_view) {
      const int32_t left = at ? symbols.texts.find(text.substr(0, at)) : TokenTable::kNone;
      const int32_t right = at ? symbols.texts.find(text.substr(at)) : TokenTable::kNone;
      if (left != TokenTable::kNone && right != TokenTable::kNone) out.push_back({left, right, id, rank});
    });
    if (out.size() == before) continue;
    require(previous < 0 || score(previous) > score(id), "{}: pieces '{}' and '{}' have the same score, which is not supported", origin,
            previous < 0 ? "" : model.pieces[static_cast<size_t>(previous)].text, text);
    previous = id;
    ++rank;
  }
  return out;
}

Normalizer normalizer_of(const SentencePieceModel& model, std::string_view origin) {
  std::vector<std::string> untouched;
  for (const auto& piece : model.pieces)
    if (piece.type == PieceType::user_defined) untouched.push_back(piece.text);
  NormalizeStep step{.kind = NormalizeStep::Kind::sentencepiece};
  step.sentencepiece = std::make_shared<const SentencePieceNormalizer>(
      model.charsmap,
      SentencePieceNormalizer::Options{.add_dummy_prefix = model.add_dummy_prefix,
                                       .remove_extra_whitespaces = model.remove_extra_whitespaces,
                                       .escape_whitespaces = model.escape_whitespaces,
                                       .whitespace_as_suffix = model.whitespace_as_suffix},
      untouched, origin);
  return Normalizer({std::move(step)});
}

std::vector<DecodeStep> decoder_of(const SentencePieceModel& model) {
  using Kind = DecodeStep::Kind;
  std::vector<DecodeStep> out = {{.kind = Kind::replace, .pattern = std::string(kVisibleSpace), .content = " "}, {Kind::byte_fallback}, {Kind::fuse}};
  // What the normalizer put in front, or all that it would take away there.
  const int64_t leading = model.remove_extra_whitespaces ? INT32_MAX : model.add_dummy_prefix ? 1 : 0;
  if (leading) out.push_back({.kind = Kind::strip, .content = " ", .start = leading});
  return out;
}

}  // namespace

std::unique_ptr<TokenizerState> read_sentencepiece_tokenizer(std::string_view bytes, std::string_view config_json, std::string_view origin) {
  const SentencePieceModel model = read_sentencepiece_model(bytes, origin);
  require(model.type == SentencePieceModel::Type::bpe, "{}: model type {}, only BPE is supported", origin,
          std::array{"", "unigram", "BPE", "word", "character"}[static_cast<size_t>(model.type)]);
  auto state = std::make_unique<TokenizerState>();
  BpeOptions options{.byte_fallback = model.byte_fallback, .fuse_unknown = true};
  for (const auto& piece : model.pieces)
    if (piece.type == PieceType::unknown) options.unknown_token = piece.text;
  BpeSymbols symbols = symbols_of(model, origin);
  const std::vector<BpeMerge> merges = merges_of(model, symbols, origin);
  state->model = std::make_unique<Bpe>(vocabulary_of(model), std::move(symbols), merges, std::move(options));
  state->normalizer = normalizer_of(model, origin);
  state->decoder = decoder_of(model);
  std::vector<SplitStep> steps;
  if (state->model->may_cut_before(kVisibleSpace)) steps.push_back({.finder = SplitStep::Finder::scanner, .scan = scan_visible_spaces});
  state->pre_tokenizer = PreTokenizer(std::move(steps));

  const std::string place = "tokenizer_config.json beside " + std::string(origin);
  const Json config = read_tokenizer_config(config_json, origin);
  complete_tokenizer(*state, {}, config, origin);
  const auto own = [&](std::optional<int32_t>& id, int32_t of_model) {
    if (!id && of_model >= 0 && static_cast<size_t>(of_model) < model.pieces.size()) id = of_model;
  };
  own(state->bos, model.bos), own(state->eos, model.eos), own(state->pad, model.pad);
  for (size_t i = 0; i < model.pieces.size(); ++i) {
    if (model.pieces[i].type == PieceType::control || model.pieces[i].type == PieceType::unknown) state->special[i] = true;
    if (model.pieces[i].type == PieceType::unknown) state->unk = static_cast<int32_t>(i);
  }
  if (state->bos && json_get_or(config, "add_bos_token", false, place)) state->before.push_back(*state->bos);
  if (state->eos && json_get_or(config, "add_eos_token", false, place)) state->after.push_back(*state->eos);
  return state;
}

}  // namespace ponte
