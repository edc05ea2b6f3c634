// The only place that reads the process environment.
#pragma once
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace ponte {

std::optional<std::string> environment(const char* name);              // unset or empty: nullopt
std::optional<int64_t> environment_integer(const char* name);          // UserError when set and not an integer
bool environment_flag(const char* name);                               // 1, true, yes, on

// The launcher's view of this process: torchrun and PyTorchJob (RANK, ...), SLURM, OpenMPI, in that order; one rank when none is set.
struct LaunchEnvironment {
  int64_t rank = 0, world_size = 1, local_rank = 0, local_world_size = 1;
  std::string master_address = "127.0.0.1";
  int64_t master_port = 29500;
  bool launcher_has_store = false;  // the launcher serves the store at master_address:master_port; else rank 0 does
  int64_t restarts = 0;             // how often the launcher has started this run again
  std::string network_interface;    // GLOO_SOCKET_IFNAME; "": the one of this machine's name
  std::string source = "single process";  // which launcher the values came from
};
LaunchEnvironment launch_environment();

// This process's environment as a new process takes it, "NAME=value" each, with these set.
std::vector<std::string> environment_with(const std::vector<std::pair<std::string, std::string>>& set);

int64_t default_threads();       // cores this process may use
bool stderr_is_terminal();
bool stdout_is_terminal();
int64_t terminal_columns();

}  // namespace ponte
