// A subcommand of `ponte`: its name, what it does in one line, and a function from its arguments to an exit status. The two executables each list
// theirs in a visible array (cli/main.cpp, cli_torch/main.cpp); `ponte` hands the commands of the other half to `ponte-torch` beside it.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace CLI {
class App;
class Option;
}

namespace ponte {

using Arguments = std::vector<std::string>;  // those after the command's name

struct Command {
  std::string_view name, summary;
  int (*run)(const Arguments& arguments);  // nullptr: `ponte-torch` runs it
  bool listed = true;                      // in the overview of `ponte --help`
};

enum class Parsed { go_on, done };

// Parses with CLI11; flags accept `-` and `_` alike. done: --help was asked for and printed. A wrong flag or value, an empty one of a
// required flag included, is a UserError that ends with how to get help, and names the nearest flag.
Parsed parse_arguments(CLI::App& app, const Arguments& arguments);

// Refuses values of an integer flag (each, of a list) outside [lowest, highest].
CLI::Option* within(CLI::Option* option, int64_t lowest, int64_t highest = INT64_MAX);
// --threads of every command.
inline constexpr int64_t kMostThreads = 1024;

// Replaces this process by `ponte-torch COMMAND ARGUMENTS`.
[[noreturn]] void run_in_torch_half(std::string_view command, const Arguments& arguments);

// The body of main: finds the command, runs it, prints errors on stderr. Exit status 0, 1 (user error), 2 (internal error).
int run_program(std::span<const Command> commands, int count, char** arguments);

}  // namespace ponte
