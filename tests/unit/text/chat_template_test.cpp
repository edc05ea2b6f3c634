// Chat templates in small: the language, errors with their lines, bombs. The oracle tests compare with jinja2.
#include "text/chat_template.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/errors.h"
#include "base/file.h"

namespace ponte {
namespace {

const fs::path kTemplates = fs::path(PONTE_SOURCE_DIR) / "tests" / "golden" / "templates";

TEST(ChatTemplate, Qwen3) {
  const ChatTemplate t = ChatTemplate::parse(read_file(kTemplates / "Qwen-Qwen3-0.6B.jinja"), "Qwen3");
  const Json messages = Json::parse(R"([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}])");
  const Json no_thinking = {{"enable_thinking", false}};
  EXPECT_EQ(t.render(messages, {.add_generation_prompt = true, .variables = &no_thinking}),
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n");
  EXPECT_EQ(t.render(Json::parse(R"([{"role": "user", "content": "Hi"}])")), "<|im_start|>user\nHi<|im_end|>\n");
}

TEST(ChatTemplate, TheLanguageInSmall) {
  const Json v = {{"xs", {3, 1, 2}}, {"s", "abc"}};
  const std::pair<const char*, const char*> cases[] = {
      {"{{ xs|sort|join('-') }}", "1-2-3"},
      {"{% for x in xs if x > 1 %}{{ loop.index }}{{ x }}{% endfor %}", "1322"},
      {"{% set ns = namespace(n=0) %}{% for x in xs %}{% set ns.n = ns.n + x %}{% endfor %}{{ ns.n }}", "6"},
      {"a\n  {%- if true %}\n  b\n  {% endif %}\nc", "a  b\nc"},
      {"{{ s[::-1] ~ s[1:] }}", "cbabc"},
      {"{{ {'a': [1, none, true]}|tojson }}", R"({"a": [1, null, true]})"},
      {"{% macro m(x, y=2) %}{{ x + y }}{% endmacro %}{{ m(1) }}{{ m(1, y=5) }}", "36"}};
  for (const auto& [source, want] : cases) EXPECT_EQ(ChatTemplate::parse(source, "t").render_with(v), want) << source;
}

TEST(ChatTemplate, ErrorsNameTheTemplateAndTheLine) {
  const std::pair<const char*, const char*> cases[] = {{"a\n{{ x.y }}", "t, line 2: 'x' is undefined"},
                                                       {"{{ raise_exception('no') }}", "t, line 1: no"},
                                                       {"\n\n{% include 'x' %}", "t, line 3: the statement 'include' is not supported"},
                                                       {"{{ s.append(1) }}", "t, line 1: 'list.append' is not safe"},
                                                       {"{{ 1 + }}", "t, line 1: unexpected end of a tag"},
                                                       {"{% for x in s %}", "t, line 1: 'endfor' is missing"}};
  for (const auto& [source, want] : cases) try {
      ChatTemplate::parse(source, "t").render_with(Json{{"s", Json::array()}});
      ADD_FAILURE() << source;
    } catch (const UserError& e) {
      EXPECT_EQ(std::string(e.what()).rfind(want, 0), 0u) << e.what();
    }
}

TEST(ChatTemplate, BombsEnd) {
  for (const std::string& source : {std::string("{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}"),
      std::string("{{ 'x' * 99999999999 }}"),
                                   std::string("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"),
                                       std::string("{% set n = namespace() %}{% set n.a = n %}{{ n }}"),
                                   "{{ " + std::string(100000, '(') + "}}", "{{ 1" + std::string(100000, '+') + "1 }}",
                                       std::string("{{ [[1]] * 9000000000000000000 }}")})
    EXPECT_THROW(ChatTemplate::parse(source, "t").render_with(Json::object()), UserError) << source.substr(0, 60);
}

}  // namespace
}  // namespace ponte
