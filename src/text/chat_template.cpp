#include "text/chat_template.h"

#include <nlohmann/json.hpp>

#include "base/errors.h"
#include "base/file.h"
#include "text/jinja_interpreter.h"
#include "text/jinja_parser.h"

namespace ponte {

struct ChatTemplate::State {
  std::string origin;
  jinja::Body body;
  jinja::Dict special_tokens;  // bos_token, ...
};

namespace {

constexpr const char* kSpecialNames[] = {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"};

// `chat_template`: a text, or a list of {"name", "template"} of which "default" counts.
std::string template_of(const Json& config, const std::string& origin) {
  const auto it = config.find("chat_template");
  require(it != config.end() && !it->is_null(), "{}: the folder has neither chat_template.jinja nor a 'chat_template' here", origin);
  if (it->is_string()) return it->get<std::string>();
  require(it->is_array(), "{}: 'chat_template' is neither a text nor a list", origin);
  for (const Json& entry : *it)
    if (entry.is_object() && json_get<std::string>(entry, "name", origin) == "default") return json_get<std::string>(entry, "template", origin);
  fail("{}: 'chat_template' has no entry named 'default'", origin);
}

}  // namespace

ChatTemplate::ChatTemplate(std::unique_ptr<State> state) : state_(std::move(state)) {}
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;
ChatTemplate::~ChatTemplate() = default;

ChatTemplate ChatTemplate::parse(std::string_view source, std::string_view origin) {
  auto state = std::make_unique<State>();
  state->origin = origin;
  state->body = jinja::parse_template(source, state->origin);
  return ChatTemplate(std::move(state));
}

ChatTemplate ChatTemplate::load(const fs::path& directory) {
  const fs::path file = directory / "chat_template.jinja", config_file = directory / "tokenizer_config.json";
  const Json config = fs::exists(config_file) ? read_json(config_file) : Json::object();
  ChatTemplate out = fs::exists(file) ? parse(read_file(file), file.string()) : parse(template_of(config, config_file.string()), config_file.string());
  for (const char* name : kSpecialNames) {
    const auto it = config.find(name);
    if (it == config.end() || it->is_null()) continue;
    const Json* text = it->is_object() && it->contains("content") ? &it->at("content") : &*it;
    if (text->is_string()) out.state_->special_tokens.set(jinja::Value::text(name), jinja::from_json(*text));
  }
  return out;
}

std::string ChatTemplate::render(const Json& messages, const ChatOptions& options) const {
  jinja::Dict variables = state_->special_tokens;
  const auto set = [&](const char* name, jinja::Value value) { variables.set(jinja::Value::text(name), std::move(value)); };
  set("messages", jinja::from_json(messages));
  set("tools", options.tools ? jinja::from_json(*options.tools) : jinja::Value());
  set("documents", jinja::Value());
  set("add_generation_prompt", jinja::Value::boolean(options.add_generation_prompt));
  if (options.variables) {
    require(options.variables->is_object(), "chat template: the variables are not an object");
    for (const auto& [key, value] : options.variables->items()) set(key.c_str(), jinja::from_json(value));
  }
  return jinja::Interpreter(state_->origin).render(state_->body, variables);
}

std::string ChatTemplate::render_with(const Json& variables) const {
  const jinja::Value all = jinja::from_json(variables);
  require(all.as_dict(), "chat template: the variables are not an object");
  return jinja::Interpreter(state_->origin).render(state_->body, *all.as_dict());
}

}  // namespace ponte
