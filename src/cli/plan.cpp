// `ponte plan`: a run's memory, work, communication and time on GPUs that need not be there, and the layouts that would suit them.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/errors.h"
#include "base/log.h"
#include "cli/commands.h"
#include "cli/plan_screen.h"
#include "recipes/flags.h"

namespace ponte {
namespace {

struct PlanFlags {
  int64_t gpus = 0, per_node = 0, top = 10;
  double memory_gb = 0;
  std::string gpu = "h100", network, dry_run;
  bool search = false, json = false, all = false;
};

constexpr const char* kAbout =
    "What a run needs and how fast it would be, without its GPUs: memory of each rank, FLOPs, communication, pipeline bubble, "
    "estimated step time. The run is given as for "
    "`ponte train`: --recipe, --config-file, --hf-model, section.key=value.";

Machine machine_of(const PlanFlags& flags) {
  Machine out;
  out.gpu = find_accelerator(flags.gpu);
  out.memory_bytes = 1e9 * (flags.memory_gb > 0 ? flags.memory_gb : out.gpu.memory_gb);
  out.per_node = flags.per_node > 0 ? flags.per_node : out.gpu.per_node;
  out.network_gb_per_s = flags.network.empty() ? out.gpu.network_gb_per_s : network_gb_per_s(flags.network);
  return out;
}

FixedAxes said_by_user(const Origins& origins) {
  const auto said = [&](const char* key) {
    const auto it = origins.find(key);
    return it != origins.end() && it->second == "command line";
  };
  return {said("model.tensor_model_parallel_size"),   said("model.pipeline_model_parallel_size"),
          said("model.virtual_pipeline_model_parallel_size"), said("model.context_parallel_size"),
          said("model.expert_model_parallel_size"),   said("model.expert_tensor_parallel_size"),
          said("train.micro_batch_size"),             said("model.recompute_granularity")};
}

void print(const std::string& text) { std::fwrite(text.data(), 1, text.size(), stdout); }

// Planning reads no weights and writes no checkpoints, so a run may lack what only those need.
void leave_out_files(Config& c) {
  if (!c.peft.scheme.empty() && c.checkpoint.pretrained_checkpoint.empty()) c.checkpoint.pretrained_checkpoint = "-";
}

// "450", "0,1,64", "stages": rank 0 and those at its place of the other stages, "all".
std::vector<int64_t> ranks_of(const std::string& words, const Config& config, int64_t gpus) {
  std::vector<int64_t> out;
  if (words == "stages") return Mesh(mesh_sizes(config.model, gpus, config.dist.use_tp_pp_dp_mapping)).group(GroupKind::pipeline, 0);
  for (int64_t rank = 0; words == "all" && rank < gpus; ++rank) out.push_back(rank);
  if (!out.empty()) return out;
  for (const std::string& word : split(words, ',')) {
    int64_t rank = -1;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), rank);
    require(error == std::errc() && end == word.data() + word.size(), "--dry-run {}: expected a rank, some of them (0,64,128), stages or all", words);
    require(rank >= 0 && rank < gpus, "--dry-run {}: there are {} ranks, the first is 0", words, gpus);
    require(std::ranges::find(out, rank) == out.end(), "--dry-run {}: rank {} is there twice", words, rank);
    out.push_back(rank);
  }
  return out;
}

[[noreturn]] void run_ranks_in_torch_half(const PlanFlags& flags, const Config& config, const std::vector<std::string>& of_the_run) {
  require(!flags.json, "--dry-run has no --json");
  require(config.peft.scheme.empty(), "--dry-run: this version cannot train adapters (peft.scheme={})", config.peft.scheme);
  std::string ranks;
  for (const int64_t rank : ranks_of(flags.dry_run, config, flags.gpus)) ranks += (ranks.empty() ? "" : ",") + std::to_string(rank);
  Arguments arguments = {"--gpus", std::to_string(flags.gpus), "--ranks", ranks};
  arguments.insert(arguments.end(), of_the_run.begin(), of_the_run.end());
  run_in_torch_half("plan-rank", arguments);
}

}  // namespace

int run_plan(const Arguments& arguments) {
  PlanFlags flags;
  CLI::App app(kAbout, "ponte plan");
  app.add_option("--gpus", flags.gpus, "number of GPUs (ranks)")->check(CLI::Range(int64_t{1}, int64_t{1} << 20));
  app.add_option("--gpu-memory", flags.memory_gb, "GB of one GPU; default: the model's own")->check(CLI::Range(0.001, 1e6));
  app.add_option("--gpu", flags.gpu, "a100, a800, h100, h800, h200, b200, b300, gb200, gb300, l40s")->capture_default_str();
  app.add_option("--network", flags.network, "between nodes: Gbit/s for each GPU, or ndr400, hdr200, xdr800, ethernet100, ...");
  app.add_option("--gpus-per-node", flags.per_node, "GPUs that share links; default: the model's own")->check(CLI::Range(int64_t{1}, int64_t{1} << 20));
  app.add_flag("--search", flags.search, "rank the layouts that fit, say why the others do not; sizes given on the command line stay");
  app.add_option("--top", flags.top, "layouts to show")->capture_default_str()->check(CLI::Range(int64_t{1}, int64_t{1000}));
  app.add_flag("--all", flags.all, "with --search: every rejected layout and its reason");
  app.add_flag("--json", flags.json, "as JSON");
  constexpr const char* kDryRun =
      "run training steps on tensors without memory and without the other ranks, beside the plan: of a rank, of some (0,64), of one of "
      "each stage (stages), or all";
  const CLI::Option* dry_run = app.add_option("--dry-run", flags.dry_run, kDryRun)->type_name("RANKS");
  app.allow_extras();
  if (parse_arguments(app, arguments) == Parsed::done) return 0;

  require(dry_run->count() == 0 || !flags.search, "--dry-run is of one layout, --search of many; give one of them");
  require(!std::isnan(flags.memory_gb), "--gpu-memory: a number of GB is wanted, this is none");  // no range refuses it
  require(flags.gpus > 0, "ponte plan: on how many GPUs? give --gpus N; see ponte plan --help");
  TrainArguments train = parse_train_arguments(app.remaining());
  train.request.world_size = flags.gpus;
  train.request.hf_files = HubFiles::tokenizer;
  const Machine machine = machine_of(flags);
  ResolvedRun run = resolve_run(train.request);
  require(run.config.model.num_layers > 0, "ponte plan: which model? give --recipe, --hf-model, or the sizes under model");
  leave_out_files(run.config);
  const ModelLayers layers(run.config.model, run.config.peft);
  const PlanTitle title{
      train.request.recipe.empty() ? train.request.hf_model.empty() ? run.config.model.model_type : train.request.hf_model : train.request.recipe,
      flags.gpu};
  if (flags.search) {
    const SearchResult result = search_layouts(layers, run.config, flags.gpus, machine, said_by_user(run.origins), static_cast<size_t>(flags.top));
    print(flags.json ? dump_json(search_json(result, run.config, flags.gpus, machine, title))
                     : search_screen(result, run.config, flags.gpus, machine, title, flags.all));
    return 0;
  }
  validate(run.config, flags.gpus);
  for (const std::string& part : unsupported_parts(run.config, flags.gpus)) log_warning("this version cannot train it; it lacks {}", part);
  if (dry_run->count() > 0) run_ranks_in_torch_half(flags, run.config, app.remaining());
  const Plan plan = Planner(layers, machine).plan(run.config, flags.gpus);
  print(flags.json ? dump_json(plan_json(plan, machine, title)) : plan_screen(plan, machine, title));
  return 0;
}

}  // namespace ponte
