// Command-line flags of a run: every configuration key whose name is unambiguous, and in one table the spellings of Megatron Bridge's scripts,
// Megatron-LM and ms-swift. All end as "section.key=value".
#pragma once
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "recipes/resolve.h"

namespace ponte {

struct FlagAlias {
  std::string_view flag;  // without leading dashes, words joined by dashes; single letters pairs as Bridge's scripts have them ("tp")
  // What it sets, separated by spaces: "section.key={}" with {} the value, or "section.key=text" for switches. "": accepted, without effect.
  std::string_view sets;
  enum class Kind {
    value,     // --flag VALUE
    list,      // --flag VALUE VALUE ...
    boolean,   // --flag, --flag true, --flag false
    inverted,  // as boolean; sets the opposite
    switched,  // --flag or --flag true sets the texts; --flag false nothing
  } kind = Kind::value;
};

std::span<const FlagAlias> flag_aliases();

// What the command line of `ponte train` says.
struct TrainArguments {
  RunRequest request;
  bool dry_run = false, help = false;
  int64_t nproc_per_node = 0;                // 0: not given
  std::string device = "auto";               // auto, cpu, cuda, cuda:N
  int64_t max_restarts = 0;                  // of the local ranks, by their launcher
  std::vector<std::string> without_effect;   // flags that were given and have no meaning here
};

// Reads flags, `section.key=value` words and the long and short spellings. `-` and `_` are alike. UserError: unknown flag (with the nearest), a flag
// without its value, a value of the wrong type is found later, when it is applied. A YAML file as first word is a configuration file, as in ms-swift.
TrainArguments parse_train_arguments(const std::vector<std::string>& arguments);

// The text of `ponte train --help`.
std::string train_help();

}  // namespace ponte
