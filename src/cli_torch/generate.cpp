// `ponte generate`: prompts in, text out. stdout holds the text and nothing else.
#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "base/environment.h"
#include "base/errors.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "cli_torch/commands.h"
#include "cli_torch/language_model.h"
#include "cli_torch/rank_program.h"
#include "comm/same_settings.h"
#include "text/chat_template.h"

namespace ponte {
namespace {

constexpr Patience kPatience{std::chrono::minutes(10), std::chrono::minutes(10)};

struct Flags {
  ModelChoice model;
  GenerationOptions generation;
  std::vector<std::string> prompts, stop_token_names;
  std::string prompt_file, system, template_variables;
  int64_t nproc_per_node = 0;
  std::string guesses;  // of --mtp: a number, or empty: one for each prediction layer
  bool guessing = false, stream = false, no_echo = false, chat = false, json = false, ignore_eos = false, keep_special = false;
};

// A prompt as given, and what the model reads.
struct Prompt {
  std::string shown;
  std::vector<int32_t> ids;
};

void define(CLI::App& app, Flags& flags) {
  add_model_flags(app, flags.model);
  app.add_option("--prompt", flags.prompts, "text to continue; may be given several times")->take_all()->allow_extra_args(false);
  app.add_option("--prompt-file", flags.prompt_file, "one prompt a line; *.jsonl: objects with \"prompt\" or \"messages\"; -: all of stdin is one prompt");
  within(app.add_option("--max-new-tokens", flags.generation.max_new_tokens, "at most this many tokens for each prompt")->capture_default_str(), 1);
  within(app.add_option("--batch-size", flags.generation.batch_size, "prompts that run together")->capture_default_str(), 1);
  app.add_option("--mtp", flags.guesses, "guess N tokens a pass with the model's prediction layers (as many as it has layers): the same text, sooner")
      ->expected(0, 1)
      ->type_name("N");
  app.add_flag("--stream", flags.stream, "print text as it is generated");
  app.add_flag("--no-echo", flags.no_echo, "leave the prompt out of the output");
  app.add_flag("--json", flags.json, "one JSON object for each prompt: prompt, text, tokens, finish_reason");
  app.add_flag("--apply-chat-template", flags.chat, "each prompt is a user's message; prints the reply");
  app.add_option("--system", flags.system, "system message before the user's");
  app.add_option("--chat-template-kwargs", flags.template_variables, "JSON object of variables for the template, e.g. '{\"enable_thinking\": false}'");
  app.add_option("--stop", flags.generation.stop_strings, "end before this text; may be given several times")->take_all()->allow_extra_args(false);
  app.add_flag("--ignore-eos", flags.ignore_eos, "go on after end-of-text tokens");
  app.add_flag("--keep-special-tokens", flags.keep_special, "print special tokens too");
  within(app.add_option("--nproc-per-node", flags.nproc_per_node, "ranks to start here (0: as many as the layout takes)")->group("Layout"), 0);
  add_sampling_flags(app, flags.generation.sampling);
}

Json message(const char* role, const std::string& content) { return Json{{"role", role}, {"content", content}}; }

class PromptReader {
 public:
  PromptReader(const Flags& flags, const LanguageModel& language, Ranks& ranks) : flags_(flags), language_(language), ranks_(ranks) {
  }

  std::vector<Prompt> read() {
    if (flags_.prompt_file == "-") {  // one rank can read it
      const std::string mine = ranks_.rank() == 0 ? std::string(std::istreambuf_iterator<char>(std::cin), {}) : "";
      standard_input_ = gather_text(ranks_.world(), mine)[0];
    }
    agree(ranks_.world(), [&] { read_all(); });
    if (!flags_.prompt_file.empty()) agree_on_settings(ranks_.world(), {"--prompt-file with content " + fingerprint()}, "what it read is");
    return std::move(prompts_);
  }

 private:
  // A file of the same name may hold something else on another machine.
  std::string fingerprint() const {
    ContentHash hash;
    for (const Prompt& prompt : prompts_) {
      hash.update(std::as_bytes(std::span(prompt.ids)));
      hash.update(std::as_bytes(std::span("|")));
    }
    return hash.hex();
  }

  void read_all() {
    if (!flags_.template_variables.empty()) variables_ = parse_json(flags_.template_variables, "--chat-template-kwargs");
    require(variables_.is_object(), "--chat-template-kwargs: {} found, a JSON object wanted", flags_.template_variables);
    for (const std::string& text : flags_.prompts) add_text(text);
    if (!flags_.prompt_file.empty()) add_file(flags_.prompt_file);
    require(!prompts_.empty(), "no prompt: give --prompt TEXT or --prompt-file FILE");
  }

  void add_text(const std::string& text) {
    if (flags_.chat) {
      Json messages = Json::array();
      if (!flags_.system.empty()) messages.push_back(message("system", flags_.system));
      messages.push_back(message("user", text));
      return add_messages(messages);
    }
    prompts_.push_back({text, language_.tokenizer->encode(text)});
  }

  void add_messages(const Json& messages) {
    if (!template_) template_ = std::make_unique<ChatTemplate>(ChatTemplate::load(language_.tokenizer_folder));
    const std::string text = template_->render(messages, {.add_generation_prompt = true, .variables = &variables_});
    prompts_.push_back({"", language_.tokenizer->encode(text, AddSpecial::no)});
  }

  void add_dialogue(const Json& messages, const std::string& origin) {
    require(messages.is_array(), "{}: \"messages\" is not a list", origin);
    try {
      add_messages(messages);
    } catch (const UserError& error) {  // the template's, which knows its own line alone
      fail("{}: {}", origin, error.what());
    }
  }

  void add_file(const std::string& name) {
    if (name == "-") return add_text(standard_input_);
    std::ifstream in(name);
    require(in.good() && !fs::is_directory(name), "{}: {}", name, in.good() ? "a folder; a file with prompts is wanted" : "cannot be opened");
    const bool records = fs::path(name).extension() == ".jsonl";
    std::string line;
    for (int64_t number = 1; std::getline(in, line); ++number) {
      if (!line.empty() && line.back() == '\r') line.pop_back();
      if (line.empty()) continue;
      if (!records) {
        add_text(line);
        continue;
      }
      const std::string origin = format("{} line {}", name, number);
      const Json record = parse_json(line, origin);
      if (record.is_object() && record.contains("messages"))
        add_dialogue(record["messages"], origin);
      else if (record.is_object())
        add_text(json_get<std::string>(record, "prompt", origin));
      else
        fail("{}: an object with \"prompt\" or \"messages\" wanted", origin);
    }
  }

  const Flags& flags_;
  const LanguageModel& language_;
  Ranks& ranks_;
  std::string standard_input_;
  Json variables_ = Json::object();
  std::unique_ptr<ChatTemplate> template_;
  std::vector<Prompt> prompts_;
};

void write_out(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

void print_json(const Prompt& prompt, const Completion& completion) {
  Json line{{"prompt", prompt.shown}, {"text", completion.text}, {"prompt_tokens", prompt.ids.size()}, {"tokens", completion.ids}};
  line["finish_reason"] = std::string(name(completion.reason));
  write_out(line.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n");
}

void report_rate(const std::vector<Completion>& completions, double seconds, const Guesses* guesses) {
  size_t tokens = 0;
  for (const Completion& c : completions) tokens += c.ids.size();
  std::string kept;
  if (guesses)
    kept = format("; {} of {} guessed tokens kept ({:.1f} %)", guesses->kept, guesses->made,
                  100.0 * static_cast<double>(guesses->kept) / static_cast<double>(std::max<int64_t>(1, guesses->made)));
  log_info("{} tokens in {:.2f} s ({:.1f} tokens/s){}", tokens, seconds, static_cast<double>(tokens) / seconds, kept);
}

// Tokens to guess in a pass.
int64_t guesses_of(const std::string& asked, const Model& model) {
  require(model.groups().world->size() == 1, "--mtp: {} ranks, but guessing is done on one; leave one of the two out", model.groups().world->size());
  require(model.config().mtp_num_layers > 0, "--mtp: the model has no prediction layers to guess with (tensors mtp.*)");
  if (asked.empty()) return model.config().mtp_num_layers;
  const bool number = asked.size() <= 2 && asked.find_first_not_of("0123456789") == std::string::npos;
  const int64_t guesses = number ? std::stoll(asked) : 0;
  require(guesses >= 1, "--mtp: '{}' found, a number from 1 to 99 wanted", asked);
  return guesses;
}

std::vector<Completion> run(const Flags& flags, LanguageModel& language, const std::vector<Prompt>& prompts, Guesses& guesses, bool speaks) {
  GenerationOptions options = flags.generation;
  if (flags.guessing) options.guesses = guesses_of(flags.guesses, *language.model);
  options.stop_ids = flags.ignore_eos ? std::vector<int32_t>() : language.stop_ids;
  options.skip_special = flags.keep_special ? SkipSpecial::no : SkipSpecial::yes;
  std::vector<std::vector<int32_t>> ids;
  for (const Prompt& p : prompts) ids.push_back(p.ids);
  if (!flags.stream) return generate(*language.model, *language.tokenizer, ids, options, {}, &guesses);
  std::vector<Completion> completions;  // one after the other, so that streams do not mix
  for (size_t i = 0; i < prompts.size(); ++i) {
    if (speaks && !flags.no_echo) write_out(prompts[i].shown);
    const TextListener listener = [](size_t, std::string_view text) { write_out(text); };
    completions.push_back(generate(*language.model, *language.tokenizer, {ids[i]}, options, speaks ? listener : TextListener(), &guesses)[0]);
    if (speaks) write_out("\n");
  }
  return completions;
}

// The same on every rank; rank 0 prints.
void generate_together(const Flags& flags, const at::Device& device, Ranks& ranks) {
  ranks.phase("loading");
  LanguageModel language = load_language_model(flags.model, device, ranks);
  const std::vector<Prompt> prompts = PromptReader(flags, language, ranks).read();
  ranks.phase("generating");
  const auto start = std::chrono::steady_clock::now();
  Guesses guesses;
  const std::vector<Completion> completions = run(flags, language, prompts, guesses, ranks.rank() == 0);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (ranks.rank() != 0) return;
  for (size_t i = 0; i < completions.size() && !flags.stream; ++i) {
    if (flags.json)
      print_json(prompts[i], completions[i]);
    else
      write_out((flags.no_echo ? "" : prompts[i].shown) + completions[i].text + "\n");
  }
  report_rate(completions, seconds, flags.guessing ? &guesses : nullptr);
}

}  // namespace

int run_generate(const Arguments& arguments) {
  CLI::App app("Text from a model. Greedy unless a sampling flag is given. stdout holds the text and nothing else.", "ponte generate");
  Flags flags;
  define(app, flags);
  if (parse_arguments(app, arguments) == Parsed::done) return 0;
  settle_sampling(app, flags.generation.sampling);
  flags.guessing = app.count("--mtp") > 0;
  require(!(flags.stream && flags.json), "--stream and --json exclude each other");
  const LaunchEnvironment launch = launch_environment();
  const int64_t processes = flags.nproc_per_node > 0 ? flags.nproc_per_node : flags.model.layout.ranks();
  if (launch.world_size == 1 && processes > 1) return launch_command("generate", arguments, processes, 0, Terminal::rank_0);
  return run_as_rank(launch, flags.model.device, kPatience, nullptr, [&](const std::shared_ptr<Ranks>& ranks, const at::Device& device) {
    agree_on_flags(*ranks, app, kOfAMachine);
    generate_together(flags, device, *ranks);
  });
}

}  // namespace ponte
