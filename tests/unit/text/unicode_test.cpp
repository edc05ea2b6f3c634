// Classes of characters and ill-formed UTF-8.
#include "text/unicode.h"

#include <gtest/gtest.h>

#include "base/errors.h"

namespace ponte::unicode {
namespace {

TEST(Unicode, ClassesOfCharacters) {
  struct Case {
    uint32_t code;
    int classes;
  };
  constexpr int both = kUpper | kLower;
  for (const Case& c : {Case{'a', kLetter | kLower}, {'Z', kLetter | kUpper}, {'7', kNumber}, {' ', kSpace}, {'\t', kSpace}, {0x1C, 0}, {0x85,
      kSpace}, {0xA0, kSpace},
                        {0x3000, kSpace}, {0x180E, 0}, {0x200B, 0}, {'!', kPunctuation}, {'+', kPunctuation}, {0x4E2D, kLetter | both}, {0x301, kMark | both},
                        {0x1C5, kLetter | kUpper}, {0xBD, kNumber}, {0x1F642, kPunctuation}, {0xE000, 0}, {0x10FFFF, 0}, {0x897, kMark | both}})
    EXPECT_EQ(tables().classes_of(c.code), c.classes) << std::hex << c.code;
}

TEST(Unicode, IllFormedPartsBecomeOneReplacementEach) {
  const std::string r = "\xEF\xBF\xBD";
  const std::pair<std::string, std::string> cases[] = {
      {"ok", "ok"}, {"\xFF", r}, {"a\xC3", "a" + r}, {"\xE4\xBD", r}, {"\xE4\xBD" "a", r + "a"}, {"\xF0\x9F\x99", r}, {"\xED\xA0\x80", r + r + r},
      {"\xC0\x80", r + r}, {"\xF4\x90\x80\x80", r + r + r + r}, {"\x80\x80", r + r}, {"\xF0\x9F\x99\x82", "\xF0\x9F\x99\x82"}, {"\xE0\x80", r + r}};
  for (const auto& [in, want] : cases) {
    std::string out;
    append_lossy(out, in);
    EXPECT_EQ(out, want);
    EXPECT_EQ(is_valid(in), in == want);
  }
}

TEST(Unicode, UnfinishedTail) {
  const std::pair<std::string, size_t> cases[] = {{"", 0}, {"a", 0}, {"a\xC3", 1}, {"\xE4\xBD", 2}, {"\xF0\x9F\x99", 3}, {"\xF0\x9F\x99\x82", 0}, {"\x80", 0},
                                                  {"\xC3\xA9", 0}, {"\xE0\x80", 0}, {"\xFF", 0}, {"\xED\xA0", 0}};
  for (const auto& [in, want] : cases) EXPECT_EQ(unfinished_tail(in), want) << in;
}

}  // namespace
}  // namespace ponte::unicode
