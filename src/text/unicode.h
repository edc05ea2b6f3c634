// Characters as the pre-tokenizer patterns see them: general categories of Unicode 16.0, and UTF-8 one character at a time.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace ponte::unicode {

enum class Category : uint8_t {
  unassigned, uppercase, lowercase, titlecase, modifier_letter, other_letter, nonspacing, spacing, enclosing, decimal, letter_number, other_number,
  connector, dash, open, close, initial_quote, final_quote, other_punctuation, math, currency, modifier_symbol, other_symbol,
  space, line, paragraph, control, format, private_use, surrogate
};

// What a character is, as bits of one byte.
enum Class : uint8_t {
  kLetter = 1,       // \p{L}
  kNumber = 2,       // \p{N}
  kSpace = 4,        // \s
  kMark = 8,         // \p{M}
  kUpper = 16,       // [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]
  kLower = 32,       // [\p{Ll}\p{Lm}\p{Lo}\p{M}]
  kPunctuation = 64, // [\p{P}\p{S}]
};

// Two-stage tables over all code points.
struct Tables {
  std::array<uint16_t, 0x1100> page;
  std::vector<uint8_t> category, classes;  // 256 entries a page
  uint8_t classes_of(uint32_t c) const { return classes[size_t{page[c >> 8]} << 8 | (c & 255)]; }
  Category category_of(uint32_t c) const { return static_cast<Category>(category[size_t{page[c >> 8]} << 8 | (c & 255)]); }
};
const Tables& tables();

bool is_word(uint32_t c);  // \w of Rust's regex crate

// The character at `at` of well-formed UTF-8, and its length in bytes.
struct Character {
  uint32_t code;
  uint32_t bytes;
};
inline Character decode(const char* at) {
  const auto b = [at](int i) { return static_cast<uint32_t>(static_cast<uint8_t>(at[i])); };
  if (b(0) < 0x80) return {b(0), 1};
  if (b(0) < 0xE0) return {(b(0) & 31) << 6 | (b(1) & 63), 2};
  if (b(0) < 0xF0) return {(b(0) & 15) << 12 | (b(1) & 63) << 6 | (b(2) & 63), 3};
  return {(b(0) & 7) << 18 | (b(1) & 63) << 12 | (b(2) & 63) << 6 | (b(3) & 63), 4};
}
// Start of the character that ends just before `at`.
inline const char* previous(const char* at) {
  do --at;
  while ((static_cast<uint8_t>(*at) & 0xC0) == 0x80);
  return at;
}
void append(std::string& out, uint32_t code);

bool is_valid(std::string_view bytes);
// Appends `bytes` with each maximal ill-formed part as U+FFFD (Unicode 16.0 section 3.9, as Python's errors="replace" and Rust's from_utf8_lossy).
void append_lossy(std::string& out, std::string_view bytes);
// Bytes of the first of what append_lossy() makes characters of; `bytes` is not empty.
size_t lossy_step(std::string_view bytes);
// How many bytes at the end of `bytes` are a cut-off start of a well-formed character: 0 to 3.
size_t unfinished_tail(std::string_view bytes);

}  // namespace ponte::unicode
