// `ponte train` up to the point where torch is needed, and the command spellings of ms-swift.
#include "cli/train_config.h"

#include <cstdio>

#include "base/environment.h"
#include "base/log.h"
#include "cli/commands.h"

namespace ponte {
namespace {

// Prints what would run. Without a stated number of ranks the configuration is checked for the fewest it fits on.
int dry_run(const TrainArguments& arguments) {
  const ResolvedRun run = resolve_run(arguments.request);
  for (const std::string& flag : arguments.without_effect) log_warning("{} has no effect here", flag);
  const std::string text = effective_config(run);
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
  const ModelConfig& m = run.config.model;
  const bool ranks_given = arguments.nproc_per_node > 0 || launch_environment().world_size > 1;
  const int64_t ranks =
      ranks_given ? arguments.request.world_size : m.tensor_model_parallel_size * m.pipeline_model_parallel_size * m.context_parallel_size;
  validate(run.config, ranks);
  for (const std::string& part : unsupported_parts(run.config, ranks)) log_warning("this version cannot run it; it lacks {}", part);
  return 0;
}

int run_mode(const char* mode, const Arguments& arguments) {
  Arguments words = {"--mode", mode};
  words.insert(words.end(), arguments.begin(), arguments.end());
  return run_train_config(words);
}

}  // namespace

std::optional<int> end_without_training(const TrainArguments& arguments) {
  if (arguments.help) {
    std::fputs(train_help().c_str(), stdout);
    return 0;
  }
  if (arguments.dry_run) return dry_run(arguments);
  return std::nullopt;
}

int run_train_config(const Arguments& arguments) {
  if (const auto status = end_without_training(parse_train_arguments(arguments))) return *status;
  run_in_torch_half("train", arguments);
}

int run_sft(const Arguments& arguments) { return run_mode("sft", arguments); }
int run_pt(const Arguments& arguments) { return run_mode("pt", arguments); }

}  // namespace ponte
