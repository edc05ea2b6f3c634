// The YAML subset and its hostile side.
#include "config/value.h"

#include <gtest/gtest.h>

#include "base/errors.h"

namespace ponte {
namespace {

YamlValue scalar(std::string text) {
  YamlValue v;
  v.kind = YamlValue::Kind::scalar;
  v.text = std::move(text);
  return v;
}

TEST(Value, ReadsScalarsListsAndMaps) {
  const YamlValue root = parse_value("a: 1\nb: [x, 'null', null]\nc:\n  d: ~\n", "t.yaml");
  ASSERT_EQ(root.kind, YamlValue::Kind::map);
  EXPECT_EQ(root.find("a")->text, "1");
  EXPECT_EQ(root.find("a")->line, 1);
  const YamlValue& b = *root.find("b");
  ASSERT_EQ(b.items.size(), 3u);
  EXPECT_TRUE(b.items[1].is_scalar());  // quoted: text
  EXPECT_TRUE(b.items[2].is_null());
  EXPECT_TRUE(root.find("c")->find("d")->is_null());
  EXPECT_EQ(root.find("c")->find("d")->line, 4);
}

TEST(Value, SerialisedObjectsBecomeTheirNames) {
  const YamlValue root = parse_value(
      "dtype:\n  _call_: false\n  _target_: torch.bfloat16\n"
      "backend:\n  _args_:\n  - 5\n  _call_: true\n  _name_: auto\n  _target_: megatron.core.AttnBackend\n"
      "init:\n  _args_: []\n  _partial_: true\n  _target_: torch.nn.init.normal_\n  std: 0.02\n",
      "t.yaml");
  EXPECT_EQ(root.find("dtype")->text, "torch.bfloat16");
  EXPECT_EQ(root.find("backend")->text, "auto");
  EXPECT_EQ(root.find("init")->kind, YamlValue::Kind::map);
}

TEST(Value, NumbersAreExact) {
  int64_t i = 0;
  double d = 0;
  EXPECT_TRUE(read_integer(scalar("500_000"), i));
  EXPECT_EQ(i, 500000);
  EXPECT_TRUE(read_integer(scalar("-1"), i));
  for (const char* text : {"1.0", "1e3", "", "-", "0x10", "99999999999999999999", "12a", "1__0", "_1", "true"})
    EXPECT_FALSE(read_integer(scalar(text), i)) << text;
  for (const auto& [text, value] :
       std::initializer_list<std::pair<const char*, double>>{{"3e-4", 3e-4}, {"1.0e-06", 1e-6}, {".5", 0.5}, {"7", 7.0}, {"+2.5", 2.5}}) {
    EXPECT_TRUE(read_number(scalar(text), d)) << text;
    EXPECT_EQ(d, value);
  }
  for (const char* text : {"nan", "1e999", "abc", "", "e5", "1.0.0", "infinity"}) EXPECT_FALSE(read_number(scalar(text), d)) << text;
}

TEST(Value, PrintedScalarsReadBack) {
  for (const char* text : {"a b",         "null",   "true",           "1.5",  "",     "it's",     "a: b",    "a:",       "#x",       "x #y", "C:\\x",
                           "line\nbreak", "/a/b:c", "torch.bfloat16", "[x]",  "-1",   "- x",      "~",       "9999,8,2", "org/name", "{a}",  "\"q\"",
                           "no",          " lead",  "trail ",         "a\tb", "a\rb", "bell\x07", "\x1b[0m", "\x7f",     "é\n\x05",
                           "a\u0085b", "\u00a0", "a\u2028b", "\ufeffa", "\U0001f600"}) {
    const YamlValue root = parse_value("k: " + yaml_text(text) + "\n", "t.yaml");
    ASSERT_TRUE(root.find("k")->is_scalar()) << yaml_text(text);
    EXPECT_EQ(root.find("k")->text, text) << yaml_text(text);
  }
  for (double value : {1e-8, 0.1, 3e-4, 300000.0, 4294967296.0, -2.5, 1e300, 0.0}) {
    double back = 0;
    EXPECT_TRUE(read_number(scalar(yaml_number(value)), back)) << yaml_number(value);
    EXPECT_EQ(back, value);
  }
  EXPECT_EQ(yaml_number(1e-8), "1.0e-08");  // as PyYAML writes it
}

TEST(Value, HostileDocumentsAreErrors) {
  const std::string deep = std::string(300, '[') + std::string(300, ']');
  const std::string bomb = "a: &x [1, 1]\nb: [*x, *x]\n";
  for (const std::string& text : {deep, bomb, std::string("a: 1\na: 2\n"), std::string("a: [1, 2\n"), std::string("a: 1\n---\nb: 2\n"),
                                  std::string("[a]: 1\n"), std::string("a: \"\\q\"\n"), std::string("\t- x\n  y: z\n: :\n"),
                                  std::string("? [x]\n: 1\n"), std::string("a: \xa6\n"), std::string("a: \x05\n"), std::string("a: \0\n", 6),
                                  std::string("a: \"\\N\"\n"), std::string("a: \"x\\_\"\n"), std::string("\"\\N\": 1\n")})
    EXPECT_THROW(parse_value(text, "t.yaml"), UserError) << text.substr(0, 40);
  EXPECT_TRUE(parse_value("", "t.yaml").is_null());
  EXPECT_TRUE(parse_value("# nothing\n", "t.yaml").is_null());
}

}  // namespace
}  // namespace ponte
