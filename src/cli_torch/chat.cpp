// `ponte chat`: a dialogue on the terminal. Replies stream to stdout; everything else goes to stderr.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>

#include "base/environment.h"
#include "base/errors.h"
#include "base/log.h"
#include "cli_torch/commands.h"
#include "cli_torch/language_model.h"
#include "config/limits.h"
#include "kernels/device.h"
#include "text/chat_template.h"

namespace ponte {
namespace {

struct Flags {
  ModelChoice model;
  GenerationOptions generation{.max_new_tokens = 1024};
  std::string system, template_variables = "{}";
  int64_t max_context = 0;
};

bool read_line(std::string& line) {
  if (stderr_is_terminal()) std::fputs("\n> ", stderr);
  return static_cast<bool>(std::getline(std::cin, line));
}

Json opening(const Flags& flags) {
  Json messages = Json::array();
  if (!flags.system.empty()) messages.push_back({{"role", "system"}, {"content", flags.system}});
  return messages;
}

void talk(const Flags& flags, LanguageModel& language, const ChatTemplate& chat, const Json& variables) {
  const int64_t context = flags.max_context > 0 ? flags.max_context : std::min<int64_t>(longest_sequence(language.model->config()), 8192);
  Conversation conversation(*language.model, *language.tokenizer, context);
  Json messages = opening(flags);
  for (std::string line; read_line(line);) {
    if (line.empty()) continue;
    if (line == "/exit" || line == "/quit") return;
    if (line == "/reset") {
      messages = opening(flags);
      continue;
    }
    messages.push_back({{"role", "user"}, {"content", line}});
    const std::string text = chat.render(messages, {.add_generation_prompt = true, .variables = &variables});
    const std::vector<int32_t> ids = language.tokenizer->encode(text, AddSpecial::no);
    if (std::ssize(ids) >= context) {
      log_info("(not answered: with this message the conversation has {} tokens, of {} that it may have; /reset starts afresh)", ids.size(), context);
      messages.erase(messages.size() - 1);
      continue;
    }
    const Completion reply = conversation.reply(ids, flags.generation, [](size_t, std::string_view piece) {
      std::fwrite(piece.data(), 1, piece.size(), stdout);
      std::fflush(stdout);
    });
    std::fputs("\n", stdout);
    std::fflush(stdout);
    const bool full = std::ssize(ids) + std::ssize(reply.ids) >= context;
    if (full) log_info("(the conversation has all the {} tokens that it may have; /reset starts afresh)", context);
    else if (reply.reason == FinishReason::length) log_info("(cut after {} tokens, --max-new-tokens)", reply.ids.size());
    messages.push_back({{"role", "assistant"}, {"content", reply.text}});
  }
}

}  // namespace

int run_chat(const Arguments& arguments) {
  CLI::App app("Talk with a model. /reset starts afresh, /exit or end of input ends.", "ponte chat");
  Flags flags;
  add_model_flags(app, flags.model);
  app.add_option("--system", flags.system, "system message");
  within(app.add_option("--max-new-tokens", flags.generation.max_new_tokens, "at most this many tokens in a reply")->capture_default_str(), 1);
  within(app.add_option("--max-context", flags.max_context, "tokens the conversation may have (0: the model's, up to 8192)")->capture_default_str(), 0);
  app.add_option("--stop", flags.generation.stop_strings, "end a reply before this text")->take_all()->allow_extra_args(false);
  app.add_option("--chat-template-kwargs", flags.template_variables, "JSON object of variables for the template");
  add_sampling_flags(app, flags.generation.sampling);
  if (parse_arguments(app, arguments) == Parsed::done) return 0;
  settle_sampling(app, flags.generation.sampling);
  const Json variables = parse_json(flags.template_variables, "--chat-template-kwargs");
  require(variables.is_object(), "--chat-template-kwargs: {} found, a JSON object wanted", flags.template_variables);
  require(flags.model.layout.ranks() == 1, "a conversation runs on one rank; generate takes --tp, --pp, --ep and --etp");
  LanguageModel language = load_language_model(flags.model, choose_device(flags.model.device), *Ranks::single());
  const ChatTemplate chat = ChatTemplate::load(language.tokenizer_folder);
  flags.generation.stop_ids = language.stop_ids;
  log_info("{} of {} parameters; /reset starts afresh, /exit ends", language.model->config().hf_architecture, language.model->parameter_count());
  talk(flags, language, chat, variables);
  return 0;
}

}  // namespace ponte
