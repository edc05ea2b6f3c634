#include "corpus/json_text.h"

#include <gtest/gtest.h>

namespace ponte {
namespace {

using namespace std::string_literals;

// The texts under "text" joined by "|", or "error: ...".
std::string read(JsonTextReader& reader, const std::string& line) {
  const std::string padded = line + std::string(kJsonPadding, '\0');
  if (const auto problem = reader.read(std::string_view(padded).substr(0, line.size()))) return "error: " + *problem;
  std::string out;
  for (const auto text : reader.texts(0)) out += (out.empty() ? "" : "|") + std::string(text);
  return out;
}

TEST(JsonText, MeansWhatPythonsJsonMeans) {
  JsonTextReader reader({"text"});
  const std::string deep(5000, '[');
  const std::pair<std::string, std::string> cases[] = {
      {R"({"text": "hello"})", "hello"},
      {R"(  {"a": 1, "text":"hello" , "b": [1, {"text": "no"}]} )", "hello"},
      {R"({"text": "first", "text": "last"})", "last"},
      {R"({"text": "a\u00e9\ud83d\ude00\n\"\\\/\b\f\r\t"})", "aé😀\n\"\\/\b\f\r\t"},
      {R"({"text": "nul\u0000byte"})", "nul\0byte"s},
      {R"({"text": ""})", ""},
      {R"({"text": ["one", "", "two"]})", "one||two"},
      {R"({"text": []})", ""},
      {R"({"te\u0078t": "escaped key"})", "escaped key"},
      // Python takes these, stricter readers do not.
      {R"({"text": "x", "score": NaN})", "x"},
      {R"({"text": "x", "score": -Infinity, "big": 123456789012345678901234567890, "e": 1e999})", "x"},
      {R"({"other": "\ud800", "text": "x"})", "x"},
      {R"({"text": 1, "n": NaN, "text": "late"})", "late"},
      {R"({"n": NaN, "text": ["a", "b"], "o": {"text": "no"}, "l": [true, false, null, -0.5e-3, []]})", "a|b"},
      {R"({"n": NaN, "text": "\u00e9\ud83d\ude00\n"})", "é😀\n"},
      // Neither does.
      {"", "error: column 1: not a JSON object"},
      {"[]", "error: column 1: not a JSON object"},
      {"\"text\"", "error: column 1: not a JSON object"},
      {"{}", "error: no key 'text'"},
      {R"({"txt": "x"})", "error: no key 'text'"},
      {R"({"n": NaN})", "error: no key 'text'"},
      {R"({"text": null})", "error: 'text' is null, wanted a string or a list of strings"},
      {R"({"text": 5})", "error: 'text' is a number, wanted a string or a list of strings"},
      {R"({"text": {}})", "error: 'text' is an object, wanted a string or a list of strings"},
      {R"({"text": ["a", 1]})", "error: 'text' is a list with something else than strings, wanted a string or a list of strings"},
      {R"({"n": NaN, "text": ["a", 1]})", "error: 'text' is a list with something else than strings, wanted a string or a list of strings"},
      {R"({"n": NaN, "text": false})", "error: 'text' is true or false, wanted a string or a list of strings"},
      {R"({"text": "\ud83d"})", "error: 'text' holds a lone surrogate (\\ud800 to \\udfff), which is not text"},
      {R"({"text": "\ude00x"})", "error: 'text' holds a lone surrogate (\\ud800 to \\udfff), which is not text"},
      {R"({"text": "x"} {"text": "y"})", "error: column 15: more after the JSON object's end"},
      {R"({"text": "x")", "error: column 13: wanted , or } in an object"},
      {R"({"text": "x)", "error: column 10: a string without an end"},
      {R"({"text": "x\q"})", "error: column 13: an escape that JSON does not have"},
      {R"({"text": "\u12g4"})", "error: column 15: \\u needs four hexadecimal digits"},
      {R"({'text': 'x'})", "error: column 2: wanted a key in double quotes"},
      {R"({"text": "x",})", "error: column 14: wanted a key in double quotes"},
      {R"({"text" "x"})", "error: column 9: wanted : after a key"},
      {R"({"text": 01})", "error: column 11: wanted , or } in an object"},
      {R"({"text": nul})", "error: column 10: not a JSON value"},
      {R"({"text": -})", "error: column 10: not a JSON value"},
      {"{\"text\": \"a\tb\"}", "error: column 12: control character 0x09 in a string (JSON wants it escaped)"},
      {"{\"text\": \"a\0b\"}"s, "error: column 12: control character 0x00 in a string (JSON wants it escaped)"},
      {"{\"text\": \"\xff\"}", "error: column 11: not valid UTF-8"},
      {"{\"text\": \"ok\xed\xa0\x80\"}", "error: column 13: not valid UTF-8"},
      {"{\"text\": \"\xc3", "error: column 11: not valid UTF-8"},
      {R"({"a": )" + deep, "error: column 997: nested deeper than 990"},
  };
  for (const auto& [line, wanted] : cases) EXPECT_EQ(read(reader, line), wanted) << line;
}

TEST(JsonText, TakesSeveralKeys) {
  JsonTextReader reader({"b", "a"});
  std::string line = R"({"a": "1", "b": ["2", "3"]})" + std::string(kJsonPadding, '\0');
  ASSERT_FALSE(reader.read(std::string_view(line).substr(0, line.size() - kJsonPadding)));
  EXPECT_EQ(reader.texts(0), (std::vector<std::string_view>{"2", "3"}));
  EXPECT_EQ(reader.texts(1), (std::vector<std::string_view>{"1"}));
}

}  // namespace
}  // namespace ponte
