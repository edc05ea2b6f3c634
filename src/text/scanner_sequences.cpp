// Scanners that stand for a sequence of splits, and for the cut SentencePiece vocabularies allow.
#include <cstring>

#include "text/scanner.h"
#include "text/scanner_matcher.h"
#include "text/unicode.h"

namespace ponte {

const char* const kDeepSeekPatterns[3] = {
    R"(\p{N}{1,3})", "[\xE4\xB8\x80-\xE9\xBE\xA5\xE3\x81\x80-\xE3\x82\x9F\xE3\x82\xA0-\xE3\x83\xBF]+",
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"};

namespace {

// The third pattern on one piece between the cuts of the first two. Characters of another kind of piece end it, so that no piece is measured
// before it is matched.
class DeepSeekMatcher {
 public:
  DeepSeekMatcher(const char* end, const unicode::Tables& tables) : end_(end), tables_(tables) {}

  // End of the word at p, whatever its piece.
  const char* match(const char* p) const {
    const Seen c = see(p);
    if (c.piece == Piece::numbers) return numbers(p);
    const char* q = p;
    do {
      if (const char* stop = word(q, c.piece)) return q == p ? stop : q;
      q += see(q).bytes;  // no alternative matches here: the character joins the gap up to the next match
    } while (see(q).piece == c.piece);
    return q;
  }

 private:
  enum class Piece : uint8_t { end, numbers, chinese, rest };
  struct Seen {
    Piece piece;
    uint8_t classes, bytes;
    uint32_t code;
  };
  static constexpr uint8_t kWord = unicode::kLetter | unicode::kMark;

  Seen see(const char* p) const {
    if (p >= end_) return {Piece::end, 0, 0, 0};
    const auto [code, bytes] = unicode::decode(p);
    const uint8_t classes = tables_.classes_of(code);
    if (code < 0x80) return {classes & unicode::kNumber ? Piece::numbers : Piece::rest, classes, 1, code};
    const bool chinese = (code >= 0x3040 && code <= 0x30FF) || (code >= 0x4E00 && code <= 0x9FA5);
    const Piece piece = classes & unicode::kNumber ? Piece::numbers : chinese ? Piece::chinese : Piece::rest;
    return {piece, classes, static_cast<uint8_t>(bytes), code};
  }

  const char* numbers(const char* p) const {
    for (int i = 0; i < 3 && see(p).piece == Piece::numbers; ++i) p += see(p).bytes;
    return p;
  }

  const char* run(const char* p, Piece piece, uint8_t classes) const {
    for (;;) {
      if (piece == Piece::rest && (classes & unicode::kLetter)) p = ascii_letters_end(p, end_);
      const Seen c = see(p);
      if (c.piece != piece || !(c.classes & classes)) return p;
      p += c.bytes;
    }
  }

  // End of the match at p inside a piece, null for none.
  const char* word(const char* p, Piece piece) const {
    const Seen c = see(p);
    if (c.code < 0x80 && (c.classes & unicode::kPunctuation))
      if (const char* q = ascii_letters_end(p + 1, end_); q > p + 1) return q;
    const bool prefix = c.code != '\r' && c.code != '\n' && !(c.classes & (unicode::kLetter | unicode::kPunctuation));
    if (prefix)
      if (const char* q = run(p + c.bytes, piece, kWord); q > p + c.bytes) return q;
    if (c.classes & kWord) return run(p, piece, kWord);
    const char* const q = c.code == ' ' ? p + 1 : p;
    if (const char* r = run(q, piece, unicode::kPunctuation); r > q) {
      while (piece == Piece::rest && r < end_ && (*r == '\r' || *r == '\n')) ++r;
      return r;
    }
    return spaces(p, piece);
  }

  // \s*[\r\n]+ | \s+(?!\S) | \s+
  const char* spaces(const char* p, Piece piece) const {
    const char *last = nullptr, *after_newline = nullptr, *q = p;
    for (Seen c = see(q); c.piece == piece && (c.classes & unicode::kSpace); c = see(q)) {
      last = q;
      q += c.bytes;
      if (c.code == '\r' || c.code == '\n') after_newline = q;
    }
    if (after_newline) return after_newline;
    if (!last) return nullptr;
    return see(q).piece != piece || last == p ? q : last;
  }

  const char* end_;
  const unicode::Tables& tables_;
};

}  // namespace

size_t scan_deepseek(const char*& at, const char* end, const char** word_ends, size_t capacity) {
  const DeepSeekMatcher matcher(end, unicode::tables());
  size_t n = 0;
  for (; n < capacity && at < end; ++n) word_ends[n] = at = matcher.match(at);
  return n;
}

size_t scan_visible_spaces(const char*& at, const char* end, const char** word_ends, size_t capacity) {
  const auto mark = [end](const char* p) { return end - p >= 3 && std::memcmp(p, kVisibleSpace.data(), 3) == 0; };
  size_t n = 0;
  for (; n < capacity && at < end; ++n) {
    while (mark(at)) at += 3;
    for (; at < end && !mark(at); ++at) {
      const void* const lead = std::memchr(at, kVisibleSpace[0], static_cast<size_t>(end - at));
      at = lead ? static_cast<const char*>(lead) : end;
      if (at == end || mark(at)) break;
    }
    word_ends[n] = at;
  }
  return n;
}

}  // namespace ponte
