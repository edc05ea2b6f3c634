// `ponte train`: a configuration resolved, checked, printed (--dry-run) or run.
#include <algorithm>
#include <cstdio>

#include "base/environment.h"
#include "base/errors.h"
#include "base/log.h"
#include "cli_torch/commands.h"
#include "recipes/flags.h"
#include "train/trainer.h"

namespace ponte {
namespace {

void report_without_effect(const std::vector<std::string>& keys) {
  for (const std::string& key : keys) log_warning("{} has no effect here", key);
}

// Prints what would run. Without a stated number of ranks the configuration is checked for the fewest it fits on.
int dry_run(const ResolvedRun& resolved, int64_t world_size, bool ranks_given) {
  const ModelConfig& m = resolved.config.model;
  const int64_t ranks = ranks_given ? world_size : m.tensor_model_parallel_size * m.pipeline_model_parallel_size * m.context_parallel_size;
  const std::string text = effective_config(resolved);
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
  validate(resolved.config, ranks);
  for (const std::string& part : unsupported_parts(resolved.config, ranks)) log_warning("this version cannot run it yet; it lacks: {}", part);
  return 0;
}

}  // namespace

int run_train(const Arguments& arguments) {
  const TrainArguments parsed = parse_train_arguments(arguments);
  if (parsed.help) {
    std::fputs(train_help().c_str(), stdout);
    return 0;
  }
  report_without_effect(parsed.without_effect);
  const LaunchEnvironment launch = launch_environment();
  const int64_t world_size = std::max(launch.world_size, parsed.nproc_per_node);
  const ResolvedRun resolved = resolve_run(parsed.request);
  report_without_effect(resolved.without_effect);
  if (parsed.dry_run) return dry_run(resolved, world_size, launch.world_size > 1 || parsed.nproc_per_node > 0);
  require(world_size == 1, "training on {} ranks ({}): this version lacks training on more than one rank", world_size,
          launch.world_size > 1 ? launch.source : std::string("--nproc-per-node"));
  Run run = set_up_run(resolved);
  train(run);
  return 0;
}

}  // namespace ponte
