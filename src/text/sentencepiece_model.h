// A SentencePiece model file: what its protocol buffer says, read field by field; anything ill-formed is a UserError.
//
// Source: sentencepiece/src/sentencepiece_model.proto.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace ponte {

struct SentencePieceModel {
  enum class Type { unigram = 1, bpe = 2, word = 3, character = 4 };
  enum class PieceType { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };
  struct Piece {
    std::string text;
    float score = 0;
    PieceType type = PieceType::normal;
  };
  std::vector<Piece> pieces;  // by id
  Type type = Type::unigram;
  bool byte_fallback = false, whitespace_as_suffix = false;
  int32_t bos = 1, eos = 2, pad = -1;
  std::string charsmap;
  bool add_dummy_prefix = true, remove_extra_whitespaces = true, escape_whitespaces = true;
};

// Strict: pieces are UTF-8, not empty and apart, there is one unknown piece, and with byte fallback all 256 bytes. `origin` names the file in errors.
SentencePieceModel read_sentencepiece_model(std::string_view bytes, std::string_view origin);

}  // namespace ponte
