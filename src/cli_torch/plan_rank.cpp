// The part of `ponte plan --dry-run` that computes: training steps of single ranks on tensors without memory, what they held and sent beside the plan, and
// whether what they ask of one another fits.
#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>

#include "base/errors.h"
#include "base/format.h"
#include "cli_torch/commands.h"
#include "comm/call_comparison.h"
#include "recipes/flags.h"
#include "train/dry_run.h"

namespace ponte {
namespace {

std::string bytes_text(double bytes) { return human_bytes(static_cast<uint64_t>(bytes)); }

std::string bytes_beside_plan(const DryRunRow& row) {
  const char* verdict = row.counted == row.planned ? "equal" : row.agrees() ? "equal but for what a plan leaves out" : "DIFFERENT";
  return format("{:>10} {:>10}  {}", bytes_text(row.counted), bytes_text(row.planned), verdict);
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
  out += format(" {:52} {:>10} {:>10}  the plan reserves {} more{}\n", run.peak.name, bytes_text(run.peak.counted), bytes_text(run.peak.planned),
                bytes_text(run.peak.left_out), run.peak.agrees() ? "" : ": TOO LITTLE");
  out += format("\n {:52} {:>10} {:>10}\n", format("handed over in {} micro-batches and a step's end", run.micro_batches), "program", "plan");
  for (const DryRunRow& row : run.sent)
    out += format(" {:22} {:>5} {:15} {:>7} {}\n", row.name, row.ranks, row.collective, row.calls, bytes_beside_plan(row));
  return out + "\n";
}

// One line for each of several ranks, and what differs from the plan.
std::string line(const DryRun& run) {
  std::string out = format("{:>6} {:>5}  {:>10} {:>10} {:>10} {:>10} {:>10}  {}\n", run.rank, run.place.pipeline, bytes_text(run.held[0].counted),
                           bytes_text(run.held[1].counted), bytes_text(run.held[2].counted), bytes_text(run.peak.counted), bytes_text(run.peak.planned),
                           layers_of(run));
  const auto add = [&](const DryRunRow& row) {
    if (!row.agrees()) out += format("        DIFFERENT: {} {} {}, planned {}\n", row.name, row.collective, bytes_text(row.counted), bytes_text(row.planned));
  };
  for (const DryRunRow& row : run.held) add(row);
  for (const DryRunRow& row : run.sent) add(row);
  add(run.peak);
  return out;
}

void print(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

// What went wrong, if anything: ranks that could not run, ranks that differ from the plan, calls of ranks that do not fit one another.
struct Outcome {
  int64_t failed = 0, different = 0;
  CallComparison calls;
};

Outcome run_ranks(const Config& config, int64_t gpus, const std::vector<int64_t>& ranks) {
  Outcome out;
  if (ranks.size() > 1) print("  rank stage     weights  gradients  optimizer    fullest       plan  layers\n");
  for (const int64_t rank : ranks) try {
      const DryRun run = dry_run(config, gpus, rank);
      print(ranks.size() > 1 ? line(run) : screen(run));
      out.different += !run.agrees();
      out.calls.add(*run.calls);
    } catch (const UserError& error) {
      if (ranks.size() == 1) throw;
      print(format("{:>6} DOES NOT RUN: {}\n", rank, error.what()));
      ++out.failed;
    }
  return out;
}

std::string verdict(const Outcome& outcome, size_t ranks) {
  std::string out;
  for (const std::string& difference : outcome.calls.differences()) out += format("DO NOT FIT: {}\n", difference);
  if (outcome.failed > 0) return out + format("{} of {} ranks cannot run", outcome.failed, ranks);
  if (ranks > 1 && out.empty()) out = format("{} calls of ranks that share a group fit one another\n", outcome.calls.compared());
  const char* plan = outcome.different == 0 ? "what is held and sent is what the plan says" : "the plan differs";
  return out + (outcome.calls.differences().empty() ? "every shape fits; " : "") + plan;
}

}  // namespace

int run_plan_rank(const Arguments& arguments) {
  int64_t gpus = 0;
  std::vector<int64_t> ranks;
  CLI::App app("Training steps of some ranks, without memory and without the other ranks.", "ponte plan --dry-run");
  app.add_option("--gpus", gpus, "number of GPUs (ranks)")->required();
  app.add_option("--ranks", ranks, "whose step")->required()->delimiter(',');
  app.allow_extras();
  if (parse_arguments(app, arguments) == Parsed::done) return 0;
  TrainArguments train = parse_train_arguments(app.remaining());
  train.request.world_size = gpus;
  train.request.hf_files = HubFiles::tokenizer;
  const Config config = resolve_run(train.request).config;
  validate(config, gpus);
  const auto start = std::chrono::steady_clock::now();
  const Outcome outcome = run_ranks(config, gpus, ranks);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  print(format("{} in {:.1f} s\n", verdict(outcome, ranks.size()), seconds));
  return outcome.failed == 0 && outcome.different == 0 && outcome.calls.differences().empty() ? 0 : 1;
}

}  // namespace ponte
