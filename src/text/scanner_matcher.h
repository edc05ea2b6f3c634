// The split patterns of the large model families, one match at a time: alternatives in order, greedy runs, one step back where a lookahead or a
// following class asks for it. This defines what the scanners that look at many characters at once must give.
#pragma once
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include <array>
#include <cstdint>

#include "text/scanner.h"
#include "text/unicode.h"

namespace ponte {

// End of the run of ASCII letters at p, sixteen at a time: words end at places no branch predictor knows.
inline const char* ascii_letters_end(const char* p, const char* end) {
#if defined(__SSE2__)
  while (end - p >= 16) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    const __m128i from_a = _mm_sub_epi8(_mm_or_si128(bytes, _mm_set1_epi8(0x20)), _mm_set1_epi8('a'));
    const __m128i letter = _mm_cmpeq_epi8(_mm_min_epu8(from_a, _mm_set1_epi8(25)), from_a);
    const auto other = ~static_cast<unsigned>(_mm_movemask_epi8(letter)) & 0xFFFFu;
    if (other) return p + __builtin_ctz(other);
    p += 16;
  }
#endif
  while (p < end && static_cast<unsigned>((*p | 0x20) - 'a') < 26) ++p;
  return p;
}

// ASCII white space at p: how far it runs, and the end of its last newline (null for none).
inline const char* ascii_spaces_end(const char* p, const char* end, const char*& after_newline) {
#if defined(__SSE2__)
  while (end - p >= 16) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    const __m128i from_tab = _mm_sub_epi8(bytes, _mm_set1_epi8('\t'));
    const __m128i control = _mm_cmpeq_epi8(_mm_min_epu8(from_tab, _mm_set1_epi8(4)), from_tab);
    const __m128i newline = _mm_or_si128(_mm_cmpeq_epi8(bytes, _mm_set1_epi8('\n')), _mm_cmpeq_epi8(bytes, _mm_set1_epi8('\r')));
    const auto other = ~static_cast<unsigned>(_mm_movemask_epi8(_mm_or_si128(control, _mm_cmpeq_epi8(bytes, _mm_set1_epi8(' '))))) & 0xFFFFu;
    const unsigned run = other ? static_cast<unsigned>(__builtin_ctz(other)) : 16;
    const unsigned newlines = static_cast<unsigned>(_mm_movemask_epi8(newline)) & ((1u << run) - 1);
    if (newlines) after_newline = p + (32 - __builtin_clz(newlines));
    p += run;
    if (run < 16) return p;
  }
#endif
  for (; p < end && (*p == ' ' || (*p >= '\t' && *p <= '\r')); ++p)
    if (*p == '\n' || *p == '\r') after_newline = p + 1;
  return p;
}

using unicode::Character;
using Contraction = ScanRules::Contraction;
using Letters = ScanRules::Letters;
using Prefix = ScanRules::Prefix;
using Digits = ScanRules::Digits;
using Trail = ScanRules::Trail;
using Newlines = ScanRules::Newlines;

struct Seen {
  uint8_t classes;
  uint8_t bytes;  // 0 at the end of the text
};

// One text under one set of rules; R is a structural constant, so every rule is decided at compile time.
template <ScanRules R>
class Matcher {
 public:
  Matcher(const char* end, const unicode::Tables& tables) : end_(end), tables_(tables) {}

  const char* match(const char* p) const {
    if constexpr (R.letters != Letters::cased)
      if (static_cast<uint8_t>(*p) < 0x80 && *p != '\'') {  // by far the most common: letters, perhaps behind one other character
        const char* const q = p + kPrefix[static_cast<uint8_t>(*p)];
        if (const char* const r = letters(q); r != q) return r;
      }
    if constexpr (R.letters == Letters::cased)
      if (const char* q = ascii_cased_word(p)) return R.contraction == Contraction::after_caseless ? q + contraction(q) : q;
    const Seen c = see(p);
    if constexpr (R.contraction == Contraction::before || R.contraction == Contraction::before_caseless)
      if (*p == '\'')
        if (const size_t n = contraction(p)) return p + n;
    if constexpr (R.letters == Letters::cased) {
      if (const char* q = cased_word(p, c)) return R.contraction == Contraction::after_caseless ? q + contraction(q) : q;
    } else {
      if (c.classes & kLetters) return letters(p + c.bytes);
      if (may_prefix(p, c))
        if (const Seen next = see(p + c.bytes); next.classes & kLetters) return letters(p + c.bytes + next.bytes);
    }
    if (const char* q = digits(p, c)) return q;
    if (const char* q = others(p, c)) return q;
    return spaces(p);
  }

  // Bytes of a contraction at p, 0 for none. Without case, U+017F is an s.
  size_t contraction(const char* p) const {
    constexpr bool caseless = R.contraction != Contraction::before;
    if (end_ - p < 2 || *p != '\'') return 0;
    const auto letter = [&](int i) -> char {
      if (end_ - p <= i) return 0;
      return caseless && p[i] >= 'A' && p[i] <= 'Z' ? static_cast<char>(p[i] | 32) : p[i];
    };
    switch (letter(1)) {
      case 's': case 't': case 'm': case 'd': return 2;
      case 'r': case 'v': return letter(2) == 'e' ? 3 : 0;
      case 'l': return letter(2) == 'l' ? 3 : 0;
      case '\xC5': return caseless && letter(2) == '\xBF' ? 3 : 0;
      default: return 0;
    }
  }

 private:
  static constexpr uint8_t kLetters = R.letters == Letters::plain ? unicode::kLetter : unicode::kLetter | unicode::kMark;
  // What punctuation is not: [^\s\p{L}\p{N}], with \p{M} among the letters only where the pattern says so.
  static constexpr uint8_t kNotOther = unicode::kSpace | unicode::kLetter | unicode::kNumber | (R.letters == Letters::with_marks ? unicode::kMark : 0);

  Seen see(const char* p) const {
    if (p >= end_) return {0, 0};
    const auto byte = static_cast<uint8_t>(*p);
    if (byte < 0x80) return {tables_.classes[byte], 1};
    const Character c = unicode::decode(p);
    return {tables_.classes_of(c.code), static_cast<uint8_t>(c.bytes)};
  }

  // Whether an ASCII character may stand before letters.
  static constexpr std::array<uint8_t, 128> kPrefix = [] {
    std::array<uint8_t, 128> out{};
    for (int c = 0; c < 128; ++c) {
      const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'), number = c >= '0' && c <= '9';
      out[static_cast<size_t>(c)] = R.prefix == Prefix::space ? c == ' ' : !letter && !number && c != '\n' && c != '\r';
    }
    return out;
  }();

  const char* letters(const char* p) const {
    for (;;) {
      p = ascii_letters_end(p, end_);
      if (p >= end_ || static_cast<uint8_t>(*p) < 0x80) return p;
      do {
        const Character c = unicode::decode(p);
        if (!(tables_.classes_of(c.code) & kLetters)) return p;
        p += c.bytes;
      } while (p < end_ && static_cast<uint8_t>(*p) >= 0x80);
    }
  }

  template <uint8_t Classes>
  const char* run(const char* p) const {
    for (Seen c = see(p); c.classes & Classes; c = see(p)) p += c.bytes;
    return p;
  }

  static bool newline(const char* p) { return *p == '\n' || *p == '\r'; }

  bool may_prefix(const char* p, Seen c) const {
    if constexpr (R.prefix == Prefix::space) return *p == ' ';
    else return !(c.classes & (unicode::kLetter | unicode::kNumber)) && !newline(p);
  }

  // [^\r\n\p{L}\p{N}]? upper* lower+ | [^\r\n\p{L}\p{N}]? upper+ lower*, tried with the optional character first; null when neither matches.
  const char* cased_word(const char* p, Seen c) const {
    const bool prefix = may_prefix(p, c);
    if (prefix)
      if (const char* q = upper_then_lower(p + c.bytes)) return q;
    if (const char* q = upper_then_lower(p)) return q;
    if (prefix)
      if (const char* q = run<unicode::kUpper>(p + c.bytes); q > p + c.bytes) return run<unicode::kLower>(q);
    if (c.classes & unicode::kUpper) return run<unicode::kLower>(run<unicode::kUpper>(p));
    return nullptr;
  }
  // The same where letters are ASCII and no other character touches them: capitals then small letters. Null when it is not so simple.
  const char* ascii_cased_word(const char* p) const {
    if (static_cast<uint8_t>(*p) >= 0x80) return nullptr;
    const char* const from = p + kPrefix[static_cast<uint8_t>(*p)];
    const char* const to = ascii_letters_end(from, end_);
    if (to == from || (to < end_ && static_cast<uint8_t>(*to) >= 0x80)) return nullptr;
    const char* at = from;
    while (at < to && !(*at & 0x20)) ++at;
    while (at < to && (*at & 0x20)) ++at;
    return at;
  }
  // upper* lower+: when nothing lower follows the upper run, the run gives back up to its last character that is both.
  const char* upper_then_lower(const char* p) const {
    const char* both = nullptr;  // end of the last character of the run that is lower as well
    Seen c = see(p);
    for (; c.classes & unicode::kUpper; c = see(p)) {
      p += c.bytes;
      if (c.classes & unicode::kLower) both = p;
    }
    return c.classes & unicode::kLower ? run<unicode::kLower>(p) : both;
  }

  const char* digits(const char* p, Seen c) const {
    if constexpr (R.digits == Digits::run) {
      if (*p == ' ') {
        const Seen next = see(p + 1);
        return next.classes & unicode::kNumber ? run<unicode::kNumber>(p + 1 + next.bytes) : nullptr;
      }
      return c.classes & unicode::kNumber ? run<unicode::kNumber>(p + c.bytes) : nullptr;
    } else {
      if (!(c.classes & unicode::kNumber)) return nullptr;
      p += c.bytes;
      if constexpr (R.digits == Digits::three) {
        Seen next = see(p);
        for (int i = 0; i < 2 && (next.classes & unicode::kNumber); ++i, next = see(p)) p += next.bytes;
      }
      return p;
    }
  }

  const char* others(const char* p, Seen c) const {
    if (*p == ' ') c = see(++p);
    if (!c.bytes || (c.classes & kNotOther)) return nullptr;
    do p += c.bytes, c = see(p);
    while (c.bytes && !(c.classes & kNotOther));
    if constexpr (R.trail != Trail::none)
      while (p < end_ && (newline(p) || (R.trail == Trail::newlines_and_slashes && *p == '/'))) ++p;
    return p;
  }

  // \s*[\r\n]+ | \s+(?!\S) | \s+
  const char* spaces(const char* p) const {
    const char *last = p, *after_newline = nullptr, *from = p;
    for (;;) {
      const char* const ascii = ascii_spaces_end(p, end_, after_newline);
      if (ascii != p) last = ascii - 1, p = ascii;
      const Seen c = see(p);
      if (!(c.classes & unicode::kSpace)) break;
      last = p, p += c.bytes;
    }
    if constexpr (R.newlines == Newlines::own_word)
      if (after_newline) return after_newline;
    return p == end_ || last == from ? p : last;
  }

  const char* end_;
  const unicode::Tables& tables_;
};

}  // namespace ponte
