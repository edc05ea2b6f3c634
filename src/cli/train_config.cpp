// `ponte train` up to the point where torch is needed, and the command spellings of ms-swift.
#include "cli/train_config.h"

#include <cstdio>

#include "base/environment.h"
#include "base/log.h"
#include "families/settings.h"
#include "base/wrap.h"
#include "cli/commands.h"

namespace ponte {
namespace {

std::string layout_text(const ModelConfig& m) {
  std::string out = format("tensor {} x pipeline {} x context {}", m.tensor_model_parallel_size, m.pipeline_model_parallel_size, m.context_parallel_size);
  if (m.num_moe_experts > 0) out += format(", experts over {}", m.expert_model_parallel_size);
  return out;
}

// Prints what would run. Without a stated number of ranks that is on the fewest it fits on.
int dry_run(const TrainArguments& arguments) {
  const bool ranks_given = arguments.nproc_per_node > 0 || launch_environment().world_size > 1;
  RunRequest request = arguments.request;
  if (!ranks_given) request.world_size = kFewestRanks;
  const ResolvedRun run = resolve_run(request);
  for (const std::string& flag : arguments.without_effect) log_warning("{} has no effect here", flag);
  const std::string text = effective_config(run);
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
  const ModelConfig& m = run.config.model;
  const int64_t ranks = ranks_given ? request.world_size : fewest_ranks(m);
  if (!ranks_given && ranks > 1) log_info("needs {} ranks or a multiple ({})", ranks, layout_text(m));
  validate(run.config, ranks);
  for (const std::string& part : unsupported_parts(run.config, ranks)) log_warning("this version cannot run it; it lacks {}", part);
  for (const std::string& setting : settings_config_json_cannot_say(m))
    log_warning("{} will be refused: a {}'s config.json cannot say it", setting, m.hf_architecture);
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
    std::fputs(wrapped(train_help()).c_str(), stdout);
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
