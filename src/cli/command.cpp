// Dispatch and the one place where errors become messages and exit statuses.
#include "cli/command.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <iostream>

#include "base/errors.h"
#include "base/log.h"
#include "base/wrap.h"

namespace ponte {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kOverview =
    "ponte: large language models between Hugging Face and Megatron: convert, preprocess, train, generate.\n\nusage: ponte COMMAND [flags]      "
    "ponte COMMAND --help for its flags\n\n";

// "--hf_model=x" -> "--hf-model=x"; values stay as they are.
std::string with_dashes(std::string argument) {
  if (argument.rfind("--", 0) != 0) return argument;
  const size_t end = std::min(argument.find('='), argument.size());
  std::replace(argument.begin() + 2, argument.begin() + static_cast<std::ptrdiff_t>(end), '_', '-');
  return argument;
}

void print_overview(std::span<const Command> commands) {
  std::string text(kOverview);
  for (const Command& c : commands)
    if (c.listed) text += format("  {:12} {}\n", c.name, c.summary);
  std::fputs(text.c_str(), stdout);
}

int dispatch(std::span<const Command> commands, int count, char** arguments) {
  if (count < 2 || !std::strcmp(arguments[1], "--help") || !std::strcmp(arguments[1], "-h") || !std::strcmp(arguments[1], "help")) {
    print_overview(commands);
    return 0;
  }
  if (!std::strcmp(arguments[1], "--version")) {
    std::puts("ponte 0.1.0");
    return 0;
  }
  const std::string_view wanted = arguments[1];
  std::vector<std::string> names;
  for (const Command& c : commands) {
    if (c.name == wanted) {
      const Arguments rest(arguments + 2, arguments + count);
      if (!c.run) run_in_torch_half(wanted, rest);
      return c.run(rest);
    }
    if (c.listed) names.emplace_back(c.name);
  }
  const std::string near = nearest(wanted, names);
  fail("'{}' is not a command{}; see ponte --help", wanted, near.empty() ? "" : format(", did you mean '{}'?", near));
}

// What a command printed may still be in buffers; a full disk or a closed descriptor shows here.
int with_output_written(int status) {
  std::cout.flush();
  const bool written = std::fflush(stdout) == 0 && !std::ferror(stdout) && std::cout.good();
  require(written, "standard output: not everything could be written to it");
  return status;
}

void flag_names(const CLI::App& app, std::vector<std::string>& out) {
  for (const CLI::Option* option : app.get_options())
    for (const std::string& name : option->get_lnames()) out.push_back("--" + name);
}

void refuse_unknown_flags(const CLI::App& app, const Arguments& arguments, const std::string& help) {
  std::vector<std::string> names;
  flag_names(app, names);
  for (const std::string& argument : arguments) {
    const std::string flag = with_dashes(argument).substr(0, argument.find('='));
    if (flag.rfind("--", 0) != 0 || std::find(names.begin(), names.end(), flag) != names.end()) continue;
    const std::string near = nearest(flag, names);
    fail("{}: no such flag{}{}", argument, near.empty() ? "" : format(", did you mean {}?", near), help);
  }
}

void refuse_empty_values(const CLI::App& app, const std::string& help) {
  for (const CLI::Option* option : app.get_options())
    for (const std::string& value : option->get_required() ? option->results() : std::vector<std::string>())
      require(!value.empty(), "{} is given, but empty{}", option->get_name(), help);
}

}  // namespace

CLI::Option* within(CLI::Option* option, int64_t lowest, int64_t highest) {
  const auto check = [lowest, highest](const std::string& text) {
    int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error == std::errc() && end == text.data() + text.size() && value >= lowest && value <= highest) return std::string();
    return highest == INT64_MAX ? format("{} found, an integer of {} or more wanted", text, lowest)
                                : format("{} found, an integer from {} to {} wanted", text, lowest, highest);
  };
  return option->check(check);
}

Parsed parse_arguments(CLI::App& app, const Arguments& arguments) {
  std::vector<std::string> reversed;  // as CLI11 takes them
  for (auto a = arguments.rbegin(); a != arguments.rend(); ++a) reversed.push_back(with_dashes(*a));
  const std::string help = format("; see {} --help", app.get_name());
  try {
    app.parse(std::move(reversed));
    refuse_empty_values(app, help);
    return Parsed::go_on;
  } catch (const CLI::CallForHelp&) {
    std::cout << wrapped(app.help());
    return Parsed::done;
  } catch (const CLI::RequiredError& error) {
    refuse_unknown_flags(app, arguments, help);  // a misspelled flag is why the right one is missing
    fail("{}{}", error.what(), help);
  } catch (const CLI::ExtrasError& error) {
    refuse_unknown_flags(app, arguments, help);
    fail("{}{}", error.what(), help);
  } catch (const CLI::ParseError& error) {
    fail("{}{}", error.what(), help);
  }
}

void run_in_torch_half(std::string_view command, const Arguments& arguments) {
  const fs::path program = fs::read_symlink("/proc/self/exe").parent_path() / "ponte-torch";
  require(fs::exists(program), "{}: not there; '{}' needs the half of Ponte built with LibTorch", program, command);
  std::vector<std::string> words = {program.string(), std::string(command)};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> pointers;
  for (std::string& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  ::execv(program.c_str(), pointers.data());
  fail_errno(format("{}: cannot be started", program));
}

int run_program(std::span<const Command> commands, int count, char** arguments) {
  try {
    return with_output_written(dispatch(commands, count, arguments));
  } catch (const UserError& error) {
    log_line(format("error: {}", error.what()));
    return 1;
  } catch (const fs::filesystem_error& error) {  // a folder that cannot be made or read is the machine's or the user's
    log_line(format("error: {}", error.what()));
    return 1;
  } catch (const std::exception& error) {
    log_line(format("internal error: {}", error.what()));
    return 2;
  }
}

}  // namespace ponte
