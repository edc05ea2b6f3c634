#include "base/environment.h"

#include <sched.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "base/errors.h"

namespace ponte {

std::optional<std::string> environment(const char* name) {
  const char* value = std::getenv(name);
  if (!value || !*value) return std::nullopt;
  return value;
}

std::optional<int64_t> environment_integer(const char* name) {
  const auto text = environment(name);
  if (!text) return std::nullopt;
  char* end = nullptr;
  const long long value = std::strtoll(text->c_str(), &end, 10);
  require(end && *end == '\0', "environment variable {} is '{}', wanted an integer", name, *text);
  return value;
}

bool environment_flag(const char* name) {
  const std::string value = lower(environment(name).value_or(""));
  return value == "1" || value == "true" || value == "yes" || value == "on";
}

namespace {

// "node[003-006,009]", "rack[1-2]node[3-4]-ib" or "node003,node007" names its first node: where rank 0 runs.
std::optional<std::string> first_slurm_node(const std::string& launcher) {
  if (launcher != "SLURM") return std::nullopt;
  auto list = environment("SLURM_STEP_NODELIST");
  if (!list) list = environment("SLURM_JOB_NODELIST");
  if (!list) return std::nullopt;
  std::string out;
  bool in_range = false, taken = false;  // taken: the first number of a range
  for (const char c : *list) {
    if (c == '[') in_range = true, taken = false;
    else if (c == ']') in_range = false;
    else if (!in_range && c == ',') break;
    else if (in_range && (c == ',' || c == '-')) taken = true;
    else if (!in_range || !taken) out += c;
  }
  return out;
}

}  // namespace

LaunchEnvironment launch_environment() {
  struct Launcher {
    const char *name, *rank, *world, *local_rank, *local_world;
  };
  // A batch script itself has SLURM_PROCID 0 and SLURM_NTASKS too; only what srun starts is a task of a step.
  static const Launcher launchers[] = {{"torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"},
                                       {"SLURM", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE"},
                                       {"OpenMPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"}};
  LaunchEnvironment out;
  for (const Launcher& launcher : launchers) {
    const auto rank = environment_integer(launcher.rank);
    const auto world = environment_integer(launcher.world);
    if (!rank || !world) continue;
    out.source = launcher.name;
    out.rank = *rank;
    out.world_size = *world;
    out.local_rank = environment_integer(launcher.local_rank).value_or(0);
    out.local_world_size = environment_integer(launcher.local_world).value_or(1);
    break;
  }
  out.master_address = environment("MASTER_ADDR").value_or(first_slurm_node(out.source).value_or(out.master_address));
  out.master_port = environment_integer("MASTER_PORT").value_or(out.master_port);
  out.launcher_has_store = environment_flag("TORCHELASTIC_USE_AGENT_STORE");
  out.restarts = environment_integer("TORCHELASTIC_RESTART_COUNT").value_or(0);
  out.network_interface = environment("GLOO_SOCKET_IFNAME").value_or("");
  require(out.world_size == 1 || (out.master_port >= 1 && out.master_port <= 65535), "MASTER_PORT is {}, wanted a port from 1 to 65535", out.master_port);
  require(out.world_size >= 1 && out.rank >= 0 && out.rank < out.world_size, "{} says rank {} of {}", out.source, out.rank, out.world_size);
  return out;
}

std::vector<std::string> environment_with(const std::vector<std::pair<std::string, std::string>>& set) {
  std::vector<std::string> out;
  for (char** entry = environ; *entry; ++entry) {
    const std::string_view line = *entry;
    const bool replaced = std::any_of(set.begin(), set.end(), [&](const auto& s) { return line.starts_with(s.first + "="); });
    if (!replaced) out.emplace_back(line);
  }
  for (const auto& [name, value] : set) out.push_back(name + "=" + value);
  return out;
}

int64_t default_threads() {
  cpu_set_t set;
  if (::sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return 1;
}

bool stderr_is_terminal() { return ::isatty(STDERR_FILENO); }
bool stdout_is_terminal() { return ::isatty(STDOUT_FILENO); }

int64_t terminal_columns() {
  winsize size{};
  return ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

}  // namespace ponte
