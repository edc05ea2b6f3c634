// The only place that reads the process environment.
#pragma once
#include <optional>
#include <string>

namespace ponte {

std::optional<std::string> environment(const char* name);              // unset or empty: nullopt
std::optional<int64_t> environment_integer(const char* name);          // UserError when set and not an integer
bool environment_flag(const char* name);                               // 1, true, yes, on

// The launcher's view of this process: torchrun (RANK, ...), SLURM, OpenMPI, in that order; one rank when none is set.
struct LaunchEnvironment {
  int64_t rank = 0, world_size = 1, local_rank = 0, local_world_size = 1;
  std::string master_address = "127.0.0.1";
  int64_t master_port = 29500;
  std::string source = "single process";  // which launcher the values came from
};
LaunchEnvironment launch_environment();

int64_t default_threads();       // cores this process may use
bool stderr_is_terminal();
bool stdout_is_terminal();
int64_t terminal_columns();

}  // namespace ponte
