// `ponte chat`: a dialogue on the terminal. Replies stream to stdout; everything else goes to stderr. Over ranks, rank 0 reads and writes, and all compute.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>

#include "base/environment.h"
#include "base/errors.h"
#include "base/log.h"
#include "cli_torch/commands.h"
#include "cli_torch/language_model.h"
#include "cli_torch/rank_program.h"
#include "config/limits.h"
#include "kernels/device.h"
#include "text/chat_template.h"

namespace ponte {
namespace {

struct Flags {
  ModelChoice model;
  GenerationOptions generation{.max_new_tokens = 1024};
  std::string system, template_variables = "{}";
  int64_t max_context = 0, nproc_per_node = 0;
  Json variables;
};

// Somebody may think for long about what to say next; ranks that wait for it do not give up.
constexpr Patience kPatience{std::chrono::minutes(10), std::chrono::hours(24 * 7)};

// The next line that rank 0 reads, on every rank; nullopt at the end.
std::optional<std::string> next_line(Ranks& ranks) {
  std::string said, line;
  if (ranks.rank() == 0) {
    if (stderr_is_terminal()) std::fputs("\n> ", stderr);
    if (std::getline(std::cin, line)) said = "+" + line;
  }
  said = gather_text(ranks.world(), said)[0];
  return said.empty() ? std::nullopt : std::optional(said.substr(1));
}

Json opening(const Flags& flags) {
  Json messages = Json::array();
  if (!flags.system.empty()) messages.push_back({{"role", "system"}, {"content", flags.system}});
  return messages;
}

void talk(const Flags& flags, LanguageModel& language, const ChatTemplate& chat, Ranks& ranks) {
  const int64_t context = flags.max_context > 0 ? flags.max_context : std::min<int64_t>(longest_sequence(language.model->config()), 8192);
  const bool speaks = ranks.rank() == 0;
  std::optional<Conversation> conversation;
  agree(ranks.world(), [&] { conversation.emplace(*language.model, *language.tokenizer, context); });
  const TextListener listener = [](size_t, std::string_view piece) {
    std::fwrite(piece.data(), 1, piece.size(), stdout);
    std::fflush(stdout);
  };
  Json messages = opening(flags);
  while (const std::optional<std::string> line = next_line(ranks)) {
    if (line->empty()) continue;
    if (*line == "/exit" || *line == "/quit") return;
    if (*line == "/reset") {
      messages = opening(flags);
      continue;
    }
    messages.push_back({{"role", "user"}, {"content", *line}});
    std::vector<int32_t> ids;
    agree(ranks.world(), [&] {
      ids = language.tokenizer->encode(chat.render(messages, {.add_generation_prompt = true, .variables = &flags.variables}), AddSpecial::no);
    });
    if (std::ssize(ids) >= context) {
      if (speaks)
        log_info("(not answered: with this message the conversation has {} tokens, of {} that it may have; /reset starts afresh)", ids.size(), context);
      messages.erase(messages.size() - 1);
      continue;
    }
    const Completion reply = conversation->reply(ids, flags.generation, speaks ? listener : TextListener());
    messages.push_back({{"role", "assistant"}, {"content", reply.text}});
    if (!speaks) continue;
    listener(0, "\n");
    const bool full = std::ssize(ids) + std::ssize(reply.ids) >= context;
    if (full) log_info("(the conversation has all the {} tokens that it may have; /reset starts afresh)", context);
    else if (reply.reason == FinishReason::length) log_info("(cut after {} tokens, --max-new-tokens)", reply.ids.size());
  }
}

// The same on every rank.
void chat_together(Flags flags, const at::Device& device, Ranks& ranks) {
  ranks.phase("loading");
  LanguageModel language = load_language_model(flags.model, device, ranks);
  std::optional<ChatTemplate> chat;
  agree(ranks.world(), [&] { chat.emplace(ChatTemplate::load(language.tokenizer_folder)); });
  flags.generation.stop_ids = language.stop_ids;
  if (ranks.rank() == 0)
    log_info("{} of {} parameters; /reset starts afresh, /exit ends", language.model->config().hf_architecture, language.model->parameter_count());
  ranks.phase("talking");
  talk(flags, language, *chat, ranks);
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
  within(app.add_option("--nproc-per-node", flags.nproc_per_node, "ranks to start here (0: as many as the layout takes)")->group("Layout"), 0);
  add_sampling_flags(app, flags.generation.sampling);
  if (parse_arguments(app, arguments) == Parsed::done) return 0;
  settle_sampling(app, flags.generation.sampling);
  flags.variables = parse_json(flags.template_variables, "--chat-template-kwargs");
  require(flags.variables.is_object(), "--chat-template-kwargs: {} found, a JSON object wanted", flags.template_variables);
  const LaunchEnvironment launch = launch_environment();
  const int64_t processes = flags.nproc_per_node > 0 ? flags.nproc_per_node : flags.model.layout.ranks();
  if (launch.world_size == 1 && processes > 1) return launch_command("chat", arguments, processes, 0, Terminal::rank_0);
  return run_as_rank(launch, flags.model.device, kPatience, nullptr, [&](const std::shared_ptr<Ranks>& ranks, const at::Device& device) {
    agree_on_flags(*ranks, app, kOfAMachine);
    chat_together(flags, device, *ranks);
  });
}

}  // namespace ponte
