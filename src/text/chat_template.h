// A model's chat template: messages to the prompt text the model was trained on. The template language is the subset of Jinja2 that chat
// templates use, under transformers' settings (trim_blocks, lstrip_blocks, loop controls, raise_exception, strftime_now, tojson, generation).
//
// Nothing executes: a template reaches only the values passed to it, and steps, output and nesting are bounded.
// Source: jinja2 3.1, transformers.utils.chat_template_utils.
#pragma once
#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "base/json.h"

namespace ponte {

// What a template sees besides the messages. Pointers borrow and may be null (the template then sees `none`).
struct ChatOptions {
  bool add_generation_prompt = false;
  const Json* tools = nullptr;      // array of function descriptions
  const Json* variables = nullptr;  // object: any further names, e.g. {"enable_thinking": false}
};

class ChatTemplate {
 public:
  // chat_template.jinja of the folder, or `chat_template` of its tokenizer_config.json (of several named ones, "default"). The special tokens
  // named in tokenizer_config.json (bos_token, eos_token, ...) become variables. UserError when the folder has no template.
  static ChatTemplate load(const std::filesystem::path& directory);
  static ChatTemplate parse(std::string_view source, std::string_view origin);

  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;
  ~ChatTemplate();

  // `messages`: array of {"role": ..., "content": ..., ...}. Errors name the template and the line; raise_exception's message is kept.
  std::string render(const Json& messages, const ChatOptions& options = {}) const;
  // Any template with any variables (an object), without the chat names.
  std::string render_with(const Json& variables) const;

 private:
  struct State;
  explicit ChatTemplate(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace ponte
