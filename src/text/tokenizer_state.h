// What a tokenizer is made of once its files are read: immutable, apart from the pool of working room that encode() borrows from.
#pragma once
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/normalize.h"
#include "text/pre_tokenizer.h"
#include "text/token_decoder.h"
#include "text/traced_encode.h"

namespace ponte {

class Encoder;

struct TokenizerState {
  TokenizerState();
  ~TokenizerState();

  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  std::unique_ptr<Bpe> model;
  std::vector<DecodeStep> decoder;
  std::vector<int32_t> before, after;  // ids the post-processor puts around a text
  std::vector<OffsetTrim> trims;
  bool needs_trace = false;            // whether ids depend on where a piece stands in the text, which only traced encoding knows

  std::vector<AddedToken> added;                     // by id, ascending
  AddedTokenMatcher raw_tokens, normalized_tokens;   // matched before and after normalisation
  std::vector<std::string> spelling;                 // by id; "" for a gap
  std::vector<bool> known, special;                  // by id
  int64_t vocab_size = 0;
  std::optional<int32_t> bos, eos, pad, unk;

  // Encoders not in use; encode() takes one and gives it back, so that caches stay warm and threads never share one.
  mutable std::mutex pool_mutex;
  mutable std::vector<std::unique_ptr<Encoder>> pool;
};

// Reads both documents; `config` may be empty. Throws UserError naming `origin` and the component at fault.
std::unique_ptr<TokenizerState> read_tokenizer(std::string_view tokenizer_json, std::string_view config, std::string_view origin);
// The same for the bytes of a SentencePiece model (tokenizer.model).
std::unique_ptr<TokenizerState> read_sentencepiece_tokenizer(std::string_view model, std::string_view config, std::string_view origin);

// For the two readers: the configuration beside the tokenizer's file ("" for none), and the part of the state that follows from it, the model and
// the tokens its own file adds.
Json read_tokenizer_config(std::string_view config, std::string_view origin);
void complete_tokenizer(TokenizerState& state, const std::vector<AddedToken>& tokens, const Json& config, std::string_view origin);

}  // namespace ponte
