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

std::vector<std::string> words(ScanWords scan, std::string_view text, size_t capacity = 64) {
  std::vector<const char*> ends(capacity);
  std::vector<std::string> out;
  const char *at = text.data(), *end = at + text.size(), *from = at;
  while (at < end)
    for (size_t i = 0, n = scan(at, end, ends.data(), capacity); i < n; from = ends[i++]) out.emplace_back(from, ends[i]);
  return out;
}

std::vector<std::string> words(std::string_view pattern, std::string_view text, size_t capacity = 64) {
  EXPECT_NE(find_scanner(pattern), nullptr);
  return words(find_scanner(pattern), text, capacity);
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

// Texts of words, runs and oddities of many lengths, so that everything comes to lie on the edges of what a scanner looks at together.
std::string hostile_text(uint64_t seed, int parts) {
  constexpr std::string_view kParts[] = {
      "a", "B", "'", "'s", "'LL", "'\xC5\xBFx", "s", " ", " ", " ", " ", "  ", "\t", "\n", "\r\n", "\n    ", " \n", "1", "22", "4567890",
      ".", "((", ");\n", "...", "\xC3\xA9", "\xCC\x81", "\xE4\xB8\xAD", "\xE4\xB7\x80", "\xE3\x80\x82", "\xC2\xA0", "\xE3\x80\x80",
      "\xF0\x9F\x99\x82", "\xE2\x80\x99", "\xD0\xBF\xD1\x80\xD0\xB8", "\xCE\x87", "\xC3\x97", "\xD9\xA3", "\xC2\xBD",
      "\xE0\xA4\xA8\xE0\xA4\xBF", "the", " quick", "/", "\x01", "\xED\x95\x9C\xEA\xB5\xAD", "ll",
      "Ab", "ABC", "xY", "\xC3\x89", "\xD0\x96", "\xD1\xA0\xD1\xA1", "\xC7\x85", "\xCA\xB0", "\xE4\xB8\xAD\x41",
      "'s's", "'S\xE4\xB8\xAD", "'rE", ";\n//", "\n/", "\xCE\xA3"};
  std::string out;
  for (int i = 0; i < parts; ++i) {
    seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
    const std::string_view part = kParts[seed % std::size(kParts)];
    const uint64_t repeat = seed >> 40 & 31;
    for (uint64_t k = 0; k < (repeat == 0 ? 70 : repeat < 4 ? repeat : 1); ++k) out += part;
  }
  return out;
}

// The same texts through PCRE2, and through every scanner this machine can run.
TEST(Scanner, AgreesWithTheGenericEngine) {
  const std::string spaces = R"(|\s*[\r\n]+|\s+(?!\S)|\s+)", cases = R"((?i:'s|'t|'re|'ve|'m|'ll|'d))", upper = R"([\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}])",
                    lower = R"([\p{Ll}\p{Lm}\p{Lo}\p{M}])", prefix = R"([^\r\n\p{L}\p{N}]?)";
  const std::string patterns[] = {
      kQwen2, kGpt2Pattern, cases + R"(|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*)" + spaces,
      cases + R"(|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*)" + spaces,
      prefix + upper + "*" + lower + "+" + cases + "?|" + prefix + upper + "+" + lower + "*" + cases + R"(?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*)" + spaces,
      prefix + upper + "*" + lower + "+|" + prefix + upper + "+" + lower + R"(*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*)" + spaces};
  for (const std::string& pattern : patterns) {
    const Regex regex(pattern, "test");
    const auto scanners = find_scanners(pattern);
    ASSERT_FALSE(scanners.empty()) << pattern;
    for (uint64_t seed = 1; seed < 60; ++seed) {
      const std::string text = hostile_text(seed * 88172645463325252u, seed < 50 ? static_cast<int>(seed) * 4 : 2000);
      Words want;
      Regex::Match m;
      for (size_t at = 0; regex.find(text, at, std::string::npos, m); at = m.end) want.push_back(text.substr(m.begin, m.end - m.begin));
      for (size_t width = 0; width < scanners.size(); ++width)
        for (const size_t capacity : {1, 63, 64, 65, 200, 256}) ASSERT_EQ(words(scanners[width], text, capacity), want) << pattern << " width " << width;
    }
  }
}

TEST(Scanner, VisibleSpacesBeginWords) {
  const std::string mark(kVisibleSpace);
  EXPECT_EQ(words(scan_visible_spaces, mark + "a" + mark + mark + "b\xE2\x96\x82" + mark), (Words{mark + "a", mark + mark + "b\xE2\x96\x82", mark}));
  EXPECT_EQ(words(scan_visible_spaces, "a\xE2", 1), (Words{"a\xE2"}));
}

TEST(Scanner, DeepSeekCutsNumbersAndChineseFirst) {
  EXPECT_EQ(words(scan_deepseek, "a1234 \xE4\xB8\xAD\xE6\x96\x87x (y) .\n\n  z\x01\x02q"),
            (Words{"a", "123", "4", " ", "\xE4\xB8\xAD\xE6\x96\x87", "x", " (", "y", ")", " .\n\n", " ", " z", "\x01", "\x02q"}));
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
