#include "cli_torch/rank_program.h"

#include "base/errors.h"
#include "base/file.h"
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

int launch_command(std::string_view command, const Arguments& arguments, int64_t processes, int64_t max_restarts, Terminal terminal) {
  LaunchOptions options{.command = {fs::read_symlink("/proc/self/exe").string(), std::string(command)},
                        .processes = processes, .terminal = terminal, .max_restarts = max_restarts};
  options.command.insert(options.command.end(), arguments.begin(), arguments.end());
  return launch_ranks(options);
}

}  // namespace ponte
