#include "text/sentencepiece_model.h"

#include <cstring>
#include <set>

#include "base/errors.h"
#include "text/unicode.h"

namespace ponte {
namespace {

// The wire format of protocol buffers: a key of field number and kind, then a varint, 8 bytes, a length and bytes, or 4 bytes.
class WireReader {
 public:
  WireReader(std::string_view bytes, std::string_view origin) : rest_(bytes), origin_(origin) {}

  bool next() {
    if (rest_.empty()) return false;
    const uint64_t key = varint();
    require(key >> 3 != 0 && key >> 3 < (1u << 29), "{}: field number {} in a protocol buffer", origin_, key >> 3);
    field_ = static_cast<uint32_t>(key >> 3);
    kind_ = static_cast<uint32_t>(key & 7);
    switch (kind_) {
      case 0: number_ = varint(); break;
      case 1: bytes_ = take(8); break;
      case 2: bytes_ = take(varint()); break;
      case 5: bytes_ = take(4); break;
      default: fail("{}: wire type {} of field {}, wanted 0, 1, 2 or 5", origin_, kind_, field_);
    }
    return true;
  }
  uint32_t field() const { return field_; }
  uint64_t number() const { return wanted(0), number_; }
  bool boolean() const { return number() != 0; }
  int32_t integer() const { return static_cast<int32_t>(number()); }
  std::string_view bytes() const { return wanted(2), bytes_; }
  float real() const {
    wanted(5);
    float out;
    std::memcpy(&out, bytes_.data(), sizeof(out));
    return out;
  }

 private:
  void wanted(uint32_t kind) const { require(kind_ == kind, "{}: field {} has wire type {}, wanted {}", origin_, field_, kind_, kind); }
  std::string_view take(uint64_t n) {
    require(n <= rest_.size(), "{}: field {} of {} bytes where {} are left", origin_, field_, n, rest_.size());
    const std::string_view out = rest_.substr(0, n);
    rest_.remove_prefix(n);
    return out;
  }
  uint64_t varint() {
    uint64_t out = 0;
    for (int shift = 0;; shift += 7) {
      require(!rest_.empty() && shift < 64, "{}: a number of a protocol buffer does not end", origin_);
      const auto byte = static_cast<uint8_t>(rest_[0]);
      rest_.remove_prefix(1);
      out |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if (!(byte & 0x80)) return out;
    }
  }

  std::string_view rest_, origin_, bytes_;
  uint32_t field_ = 0, kind_ = 0;
  uint64_t number_ = 0;
};

SentencePieceModel::Piece read_piece(std::string_view bytes, std::string_view origin) {
  SentencePieceModel::Piece out;
  for (WireReader reader(bytes, origin); reader.next();) {
    if (reader.field() == 1) out.text = reader.bytes();
    else if (reader.field() == 2) out.score = reader.real();
    else if (reader.field() == 3) {
      require(reader.number() >= 1 && reader.number() <= 6, "{}: piece type {}, wanted 1 to 6", origin, reader.number());
      out.type = static_cast<SentencePieceModel::PieceType>(reader.number());
    }
  }
  require(!out.text.empty() && unicode::is_valid(out.text), "{}: a piece that is empty or not UTF-8", origin);
  require(out.score == out.score, "{}: the score of piece '{}' is not a number", origin, out.text);
  return out;
}

void read_trainer(std::string_view bytes, std::string_view origin, SentencePieceModel& out) {
  for (WireReader reader(bytes, origin); reader.next();) switch (reader.field()) {
      case 3:
        require(reader.number() >= 1 && reader.number() <= 4, "{}: model type {}, wanted 1 to 4", origin, reader.number());
        out.type = static_cast<SentencePieceModel::Type>(reader.number());
        break;
      case 24: out.whitespace_as_suffix = reader.boolean(); break;
      case 35: out.byte_fallback = reader.boolean(); break;
      case 41: out.bos = reader.integer(); break;
      case 42: out.eos = reader.integer(); break;
      case 43: out.pad = reader.integer(); break;
      default: break;
    }
}

void read_normalizer(std::string_view bytes, std::string_view origin, SentencePieceModel& out) {
  for (WireReader reader(bytes, origin); reader.next();) switch (reader.field()) {
      case 2: out.charsmap = reader.bytes(); break;
      case 3: out.add_dummy_prefix = reader.boolean(); break;
      case 4: out.remove_extra_whitespaces = reader.boolean(); break;
      case 5: out.escape_whitespaces = reader.boolean(); break;
      default: break;
    }
}

void check(const SentencePieceModel& model, std::string_view origin) {
  using Type = SentencePieceModel::PieceType;
  require(model.pieces.size() < (1u << 21), "{}: {} pieces, at most {} are supported", origin, model.pieces.size(), (1u << 21) - 1);
  std::set<std::string_view> texts;
  size_t unknown = 0, bytes = 0;
  for (const auto& piece : model.pieces) {
    require(texts.insert(piece.text).second, "{}: piece '{}' is there twice", origin, piece.text);
    unknown += piece.type == Type::unknown;
    bytes += piece.type == Type::byte;
    if (piece.type != Type::byte) continue;
    const bool spelled = piece.text.size() == 6 && piece.text.starts_with("<0x") && piece.text[5] == '>' &&
                         piece.text.find_first_not_of("0123456789ABCDEF", 3) == 5;
    require(spelled && model.byte_fallback, "{}: byte piece '{}' {}", origin, piece.text, spelled ? "in a model without byte_fallback" : "is not <0xXX>");
  }
  require(unknown == 1, "{}: {} unknown pieces, wanted one", origin, unknown);
  require(!model.byte_fallback || bytes == 256, "{}: {} byte pieces, wanted 256 with byte_fallback", origin, bytes);
}

}  // namespace

SentencePieceModel read_sentencepiece_model(std::string_view bytes, std::string_view origin) {
  SentencePieceModel out;
  for (WireReader reader(bytes, origin); reader.next();) {
    if (reader.field() == 1) out.pieces.push_back(read_piece(reader.bytes(), origin));
    else if (reader.field() == 2) read_trainer(reader.bytes(), origin, out);
    else if (reader.field() == 3) read_normalizer(reader.bytes(), origin, out);
  }
  check(out, origin);
  return out;
}

}  // namespace ponte
