// What a tokenizer is made of once its files are read: immutable, apart from the pool of working room that encode() borrows from.
#pragma once
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/normalize.h"
#include "text/pre_tokenizer.h"
#include "text/token_decoder.h"

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

}  // namespace ponte
