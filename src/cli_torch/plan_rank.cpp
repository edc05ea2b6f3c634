// The part of `ponte plan --dry-run RANK` that computes: one rank's training step on tensors without memory, and what it held and sent beside the plan.
#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>

#include "base/errors.h"
#include "base/format.h"
#include "cli_torch/commands.h"
#include "recipes/flags.h"
#include "train/dry_run.h"

namespace ponte {
namespace {

std::string bytes_beside_plan(const DryRunRow& row) {
  const auto text = [](double bytes) { return human_bytes(static_cast<uint64_t>(bytes)); };
  const char* verdict = row.counted == row.planned ? "equal" : row.agrees() ? "equal but for what a plan leaves out" : "DIFFERENT";
  return format("{:>10} {:>10}  {}", text(row.counted), text(row.planned), verdict);
}

std::string layers_of(const DryRun& run) {
  std::string out;
  for (const Stage& stage : run.chunks) {
    if (!out.empty()) out += ", ";
    if (stage.embedding) out += "embedding, ";
    out += stage.layers == 0 ? std::string("no layers") : format("layers {}-{}", stage.first_layer, stage.first_layer + stage.layers - 1);
    if (stage.prediction_layers > 0) out += format(", {} prediction layers", stage.prediction_layers);
    if (stage.loss) out += ", loss";
  }
  return out;
}

std::string screen(const DryRun& run) {
  const Coordinates& p = run.place;
  std::string out = format("rank {} of {}: tensor {}, context {}, data {}, pipeline {}; expert {}, expert-tensor {}, expert-data {}\n", run.rank, run.ranks,
                           p.tensor, p.context, p.data, p.pipeline, p.expert, p.expert_tensor, p.expert_data);
  out += format("{}; {} parameters with {} elements\n\n {:52} {:>10} {:>10}\n", layers_of(run), run.parameters, run.elements, "held", "program", "plan");
  for (const DryRunRow& row : run.held) out += format(" {:52} {}\n", row.name, bytes_beside_plan(row));
  out += format("\n {:52} {:>10} {:>10}\n", format("handed over in {} micro-batches and a step's end", run.micro_batches), "program", "plan");
  for (const DryRunRow& row : run.sent)
    out += format(" {:22} {:>5} {:15} {:>7} {}\n", row.name, row.ranks, row.collective, row.calls, bytes_beside_plan(row));
  return out;
}

}  // namespace

int run_plan_rank(const Arguments& arguments) {
  int64_t gpus = 0, rank = 0;
  CLI::App app("One rank's training step, without memory and without the other ranks.", "ponte plan --dry-run");
  app.add_option("--gpus", gpus, "number of GPUs (ranks)")->required();
  app.add_option("--rank", rank, "whose step")->required();
  app.allow_extras();
  if (parse_arguments(app, arguments) == Parsed::done) return 0;
  TrainArguments train = parse_train_arguments(app.remaining());
  train.request.world_size = gpus;
  train.request.hf_files = HubFiles::tokenizer;
  const Config config = resolve_run(train.request).config;
  validate(config, gpus);
  const auto start = std::chrono::steady_clock::now();
  const DryRun run = dry_run(config, gpus, rank);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const std::string verdict = run.agrees() ? "what is held and sent is what the plan says" : "the plan differs";
  const std::string text = screen(run) + format("\nevery shape fits; {} in {:.1f} s\n", verdict, seconds);
  std::fwrite(text.data(), 1, text.size(), stdout);
  return run.agrees() ? 0 : 1;
}

}  // namespace ponte
