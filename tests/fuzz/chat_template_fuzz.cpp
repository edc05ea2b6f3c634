// Any bytes as a template: text or a UserError, within the limits.
#include <nlohmann/json.hpp>

#include "base/errors.h"
#include "text/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const ponte::Json messages = ponte::Json::parse(
      R"([{"role": "system", "content": "s"}, {"role": "user", "content": "hi"},
          {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1.5}}}]}])");
  static const ponte::Json variables = {{"n", 3}, {"xs", {3, 1, 2}}, {"d", {{"a", nullptr}, {"b", true}}}, {"s", "caf\xC3\xA9"}};
  try {
    const auto t = ponte::ChatTemplate::parse({reinterpret_cast<const char*>(data), size}, "fuzz");
    t.render(messages, {.add_generation_prompt = true, .variables = &variables});
  } catch (const ponte::UserError&) {
  }
  return 0;
}
