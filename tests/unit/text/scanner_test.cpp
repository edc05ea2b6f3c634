// Where the scanners cut, and that they agree with the generic engine.
#include "text/scanner.h"

#include <gtest/gtest.h>

#include <vector>

#include "base/errors.h"
#include "text/regex.h"

namespace ponte {
namespace {

const char* const kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

std::vector<std::string> words(std::string_view pattern, std::string_view text, size_t capacity = 64) {
  const ScanWords scan = find_scanner(pattern);
  EXPECT_NE(scan, nullptr);
  std::vector<const char*> ends(capacity);
  std::vector<std::string> out;
  const char *at = text.data(), *end = at + text.size(), *from = at;
  while (at < end)
    for (size_t i = 0, n = scan(at, end, ends.data(), capacity); i < n; from = ends[i++]) out.emplace_back(from, ends[i]);
  return out;
}

using Words = std::vector<std::string>;

TEST(Scanner, Qwen2) {
  const std::pair<std::string, Words> cases[] = {
      {"Hello world", {"Hello", " world"}},
      {"it's I'LL 'x", {"it", "'s", " I", "'LL", " '", "x"}},
      {"a  b   ", {"a", " ", " b", "   "}},
      {"x \n\n  y", {"x", " \n\n", " ", " y"}},
      {"12 3", {"1", "2", " ", "3"}},
      {"f(x):\n\tz", {"f", "(x", "):\n", "\tz"}},
      {" ... ok", {" ...", " ok"}},
      {"\xE4\xBD\xA0\xE5\xA5\xBD\xEF\xBC\x8C x", {"\xE4\xBD\xA0\xE5\xA5\xBD", "\xEF\xBC\x8C", " x"}},
      {"'\xC5\xBF", {"'\xC5\xBF"}}};
  for (const auto& [text, want] : cases)
    for (const size_t capacity : {1, 2, 64}) EXPECT_EQ(words(kQwen2, text, capacity), want) << text;
}

TEST(Scanner, Gpt2KeepsNumbersTogetherAndCaseOfContractions) {
  EXPECT_EQ(words(kGpt2Pattern, "it's 'S 123 a\n\nb"), (Words{"it", "'s", " '", "S", " 123", " a", "\n", "\n", "b"}));
}

TEST(Scanner, PatternsAreRecognisedByMeaning) {
  EXPECT_NE(find_scanner(kQwen2), nullptr);
  EXPECT_NE(find_scanner(kGpt2Pattern), nullptr);
  EXPECT_EQ(find_scanner(R"(\p{L}+)"), nullptr);
}

// The same text through PCRE2 and through the scanner.
TEST(Scanner, AgreesWithTheGenericEngine) {
  const Regex regex(kQwen2, "test");
  std::string text;
  uint64_t state = 88172645463325252u;
  for (int i = 0; i < 20000; ++i) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    constexpr std::string_view kParts[] = {"a", "B", "'", "s", " ", " ", "\n", "\r", "1", ".", "\xC3\xA9", "\xCC\x81", "\xE4\xB8\xAD", "\xC2\xA0",
        "\xF0\x9F\x99\x82", "ll"};
    text += kParts[state % std::size(kParts)];
  }
  Words want;
  Regex::Match m;
  for (size_t at = 0; regex.find(text, at, std::string::npos, m); at = m.end) want.push_back(text.substr(m.begin, m.end - m.begin));
  EXPECT_EQ(words(kQwen2, text), want);
}

TEST(Regex, ErrorsNameTheConstruct) {
  for (const auto& [pattern, what] : {std::pair{"(?<n>a)", "(?<n"}, {"a{,2}", "{,"}, {"^a", "^"}, {"\\h", "\\h"}, {"[a&&b]", "&&"}, {"[[:alpha:]]",
      "[:"}, {"\\p{Greek}", "\\p{Greek}"}, {"(", "("}, {"[a", "["}, {"\\", "\\"}})
    try {
      Regex regex(pattern, "test");
      ADD_FAILURE() << pattern;
    } catch (const UserError& e) {
      EXPECT_NE(std::string(e.what()).find(what), std::string::npos) << e.what();
    }
}

}  // namespace
}  // namespace ponte
