// Hand-written matchers for the split patterns of the large model families. A pattern is recognised by what it says: a few independent rules,
// whose canonical spelling is compared with the file's.
#pragma once
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace ponte {

// Writes the ends of the words that start at `at` one after the other, at most `capacity`, and advances `at` behind the last of them.
// `end` is the end of the text the pattern sees. Every position of a text belongs to exactly one word.
using ScanWords = size_t (*)(const char*& at, const char* end, const char** word_ends, size_t capacity);

// What the patterns of this form say, alternative by alternative.
struct ScanRules {
  enum class Contraction { none, before, before_caseless, after_caseless };  // 's 't 're 've 'm 'll 'd as words, or as suffixes of words
  enum class Letters { plain, with_marks, cased };                           // \p{L}+ | [\p{L}\p{M}]+ | upper* lower+, upper+ lower* (o200k)
  enum class Prefix { space, any };                                          // ' ?' or [^\r\n\p{L}\p{N}]? before letters
  enum class Digits { run, one, three };                                     // ' ?\p{N}+' | \p{N} | \p{N}{1,3}
  enum class Trail { none, newlines, newlines_and_slashes };                 // after punctuation
  enum class Newlines { plain, own_word };                                   // whether \s*[\r\n]+ is an alternative
  Contraction contraction;
  Letters letters;
  Prefix prefix;
  Digits digits;
  Trail trail;
  Newlines newlines;
};

std::string spelling(const ScanRules& rules);          // the regular expression
ScanWords find_scanner(std::string_view pattern);      // null when the pattern is none of these; the fastest this machine can run
std::vector<ScanWords> find_scanners(std::string_view pattern);  // all it can run, each giving the same words
extern const char* const kGpt2Pattern;                 // ByteLevel with use_regex

// DeepSeek-V3's three splits, one after the other: numbers, Chinese and kana, the rest.
extern const char* const kDeepSeekPatterns[3];
size_t scan_deepseek(const char*& at, const char* end, const char** word_ends, size_t capacity);

// Cuts before every run of U+2581, SentencePiece's visible space.
inline constexpr std::string_view kVisibleSpace = "\xE2\x96\x81";
size_t scan_visible_spaces(const char*& at, const char* end, const char** word_ends, size_t capacity);

}  // namespace ponte
