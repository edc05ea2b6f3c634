// Stop strings over any cutting of the text into pieces.
#include "generate/stop_strings.h"

#include <gtest/gtest.h>

#include "base/errors.h"

namespace ponte {
namespace {

struct Case {
  std::string text;
  std::vector<std::string> stops;
  std::string wanted;
  bool met;
};

const Case kCases[] = {
    {"hello world", {}, "hello world", false},
    {"hello\nUser: x", {"\nUser:"}, "hello", true},
    {"hello\nUse it", {"\nUser:"}, "hello\nUse it", false},
    {"aaab", {"aab"}, "a", true},          // overlapping beginnings
    {"ababac!", {"abac", "zz"}, "ab", true},
    {"stop", {"stop"}, "", true},
    {"one STOP two END", {"END", "STOP"}, "one ", true},  // the earliest in the text
    {"ends with beginning EN", {"END"}, "ends with beginning EN", false},
};

TEST(StopStrings, AnyCuttingGivesTheSameText) {
  for (const Case& c : kCases)
    for (size_t piece = 1; piece <= c.text.size(); ++piece) {
      StopStrings stops(c.stops);
      std::string out;
      for (size_t at = 0; at < c.text.size(); at += piece) {
        out += stops.push(std::string_view(c.text).substr(at, piece));
        EXPECT_EQ(c.wanted.substr(0, out.size()), out) << c.text << " in pieces of " << piece;
      }
      out += stops.finish();
      EXPECT_EQ(out, c.wanted) << c.text << " in pieces of " << piece;
      EXPECT_EQ(stops.met(), c.met) << c.text;
    }
}

TEST(StopStrings, NothingIsHeldWithoutNeed) {
  StopStrings stops({"\n\n"});
  EXPECT_EQ(stops.push("a line\n"), "a line");
  EXPECT_EQ(stops.push("b"), "\nb");
}

TEST(StopStrings, AnEmptyStopIsAnError) { EXPECT_THROW(StopStrings({"a", ""}), UserError); }

}  // namespace
}  // namespace ponte
