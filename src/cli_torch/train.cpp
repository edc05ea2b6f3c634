// `ponte train`: a resolved configuration, run.
#include <algorithm>

#include "base/environment.h"
#include "base/errors.h"
#include "base/file.h"
#include "base/log.h"
#include "cli/train_config.h"
#include "cli_torch/commands.h"
#include "train/trainer.h"

namespace ponte {

int run_train(const Arguments& arguments) {
  const TrainArguments parsed = parse_train_arguments(arguments);
  if (const auto status = end_without_training(parsed)) return *status;
  const LaunchEnvironment launch = launch_environment();
  const int64_t world_size = std::max(launch.world_size, parsed.nproc_per_node);
  require(world_size == 1, "{} ranks ({}): this version lacks training on more than one rank", world_size,
          launch.world_size > 1 ? launch.source : std::string("--nproc-per-node"));
  const ResolvedRun resolved = resolve_run(parsed.request);
  for (const std::vector<std::string>* keys : {&parsed.without_effect, &resolved.without_effect})
    for (const std::string& key : *keys) log_warning("{} has no effect here", key);
  Run run = set_up_run(resolved);
  train(run);
  return 0;
}

}  // namespace ponte
