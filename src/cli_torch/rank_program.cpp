#include "cli_torch/rank_program.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/errors.h"
#include "base/file.h"
#include "base/json.h"
#include "comm/same_settings.h"
#include "kernels/device.h"

namespace ponte {

int run_as_rank(const LaunchEnvironment& launch, const std::string& device, Patience patience, std::exception_ptr problem,
                const std::function<void(const std::shared_ptr<Ranks>& ranks, const at::Device& device)>& body) {
  at::Device chosen = at::kCPU;
  try {
    chosen = choose_device(device, launch.local_rank);
  } catch (const UserError&) {
    if (!problem) problem = std::current_exception();
  }
  const std::shared_ptr<Ranks> ranks = Ranks::join(launch, patience, chosen);
  try {
    agree(ranks->world(), [&] {
      if (problem) std::rethrow_exception(problem);
    });
    body(ranks, chosen);
  } catch (const AgreedError&) {
    if (ranks->rank() == 0) throw;
    return 1;  // rank 0 says it
  } catch (const std::exception& error) {
    ranks->failed(error.what());
    throw;
  }
  return 0;
}

void agree_on_flags(Ranks& ranks, const CLI::App& app, std::span<const std::string_view> may_differ) {
  std::vector<std::string> settings;
  for (const CLI::Option* option : app.get_options()) {
    const std::string name = option->get_name();
    if (std::ranges::find(may_differ, name) != may_differ.end()) continue;
    // In JSON's quotes: a prompt may have many lines.
    const Json given = option->results();
    const std::string value = (given.size() == 1 ? given[0] : given).dump(-1, ' ', false, Json::error_handler_t::replace);
    settings.push_back(name + (option->count() == 0 ? " not given" : " = " + value));
  }
  agree_on_settings(ranks.world(), settings, "its flags are");
}

int launch_command(std::string_view command, const Arguments& arguments, int64_t processes, int64_t max_restarts, Terminal terminal) {
  LaunchOptions options{.command = {fs::read_symlink("/proc/self/exe").string(), std::string(command)},
                        .processes = processes, .terminal = terminal, .max_restarts = max_restarts};
  options.command.insert(options.command.end(), arguments.begin(), arguments.end());
  return launch_ranks(options);
}

}  // namespace ponte
