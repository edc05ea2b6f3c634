// `ponte train`: a resolved configuration, run; with --nproc-per-node, by ranks this process starts and watches.
#include <algorithm>

#include "base/environment.h"
#include "base/errors.h"
#include "base/log.h"
#include "cli/train_config.h"
#include "cli_torch/commands.h"
#include "cli_torch/rank_program.h"
#include "train/trainer.h"

namespace ponte {
namespace {

Patience patience_of(const DistConfig& c) {
  require(c.distributed_timeout_minutes > 0, "dist.distributed_timeout_minutes is {}: expected at least 1", c.distributed_timeout_minutes);
  const std::chrono::minutes usual(c.distributed_timeout_minutes);
  if (c.distributed_timeout_seconds_after_init > 0) return {usual, std::chrono::seconds(c.distributed_timeout_seconds_after_init)};
  return {usual, usual};
}

void warn_of_idle_keys(const std::vector<std::string>& keys) {
  for (const std::string& key : keys) log_warning("{} has no effect here", key);
}

void train_together(const TrainArguments& parsed, const LaunchEnvironment& launch, const ResolvedRun& resolved, const std::shared_ptr<Ranks>& ranks,
                    const at::Device& device) {
  if (ranks->rank() == 0) {
    warn_of_idle_keys(parsed.without_effect);
    warn_of_idle_keys(resolved.without_effect);
  }
  Run run = set_up_run(resolved, ranks, device, launch.restarts);
  train(run);
}

int train_as_rank(const TrainArguments& parsed, const LaunchEnvironment& launch) {
  std::optional<ResolvedRun> resolved;
  std::exception_ptr problem;
  try {
    resolved = resolve_run(parsed.request);
  } catch (...) {
    problem = std::current_exception();
  }
  const auto body = [&](const std::shared_ptr<Ranks>& ranks, const at::Device& device) { train_together(parsed, launch, *resolved, ranks, device); };
  return run_as_rank(launch, parsed.device, patience_of(resolved ? resolved->config.dist : DistConfig()), problem, body);
}

}  // namespace

int run_train(const Arguments& arguments) {
  const TrainArguments parsed = parse_train_arguments(arguments);
  if (const auto status = end_without_training(parsed)) return *status;
  const LaunchEnvironment launch = launch_environment();
  if (launch.world_size == 1 && parsed.nproc_per_node > 1) {
    validate(resolve_run(parsed.request).config, parsed.nproc_per_node);  // what is wrong for all is said before any is started
    return launch_command("train", arguments, parsed.nproc_per_node, parsed.max_restarts);
  }
  return train_as_rank(parsed, launch);
}

}  // namespace ponte
