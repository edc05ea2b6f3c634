// A run laid out over ranks, without running it: what each kind of rank holds, computes and sends. Ranks of a pipeline stage are alike but for the rows
// of the optimizer's state, so a plan has one entry per stage, that of its fullest rank, however many ranks there are.
#pragma once
#include <array>
#include <map>
#include <vector>

#include "config/config.h"
#include "layout/cost.h"
#include "layout/pipeline_schedule.h"
#include "layout/pipeline_stages.h"
#include "layout/plan_layers.h"

namespace ponte {

// Bytes of one rank at its fullest moment.
struct MemoryPlan {
  int64_t parameters = 0, gradients = 0, optimizer = 0;
  int64_t activations = 0;    // kept for backward, all micro-batches in flight
  int64_t workspace = 0;      // alive besides at the fullest moment: gradients of activations, logits, rows on their way to experts
  int64_t communication = 0;  // buckets of gradients and parameters
  int64_t reserved = 0;       // assumed: context, libraries, fragmentation
  int64_t total() const { return parameters + gradients + optimizer + activations + workspace + communication + reserved; }
};

struct StagePlan {
  std::vector<Stage> chunks;
  WeightCount weights;
  MemoryPlan memory;
  int64_t in_flight = 0;         // forward passes of a chunk whose backward has not run
  int64_t logits_bytes = 0;      // part of workspace while the loss is computed
  double flops = 0;              // of a step on one rank, as the log counts them
  PassSeconds forward, backward; // all chunks, one micro-batch
  Volume volume;                 // of a step
};

struct StepSeconds {
  double compute = 0, memory = 0, communication = 0;  // of the slowest stage, inside its micro-batches
  double bubble = 0, replicas = 0, optimizer = 0;     // idle; gradient and parameter exchange that is not hidden; update
  double total() const { return compute + memory + communication + bubble + replicas + optimizer; }
};

struct Plan {
  Config config;
  MeshSizes mesh;
  int64_t ranks = 1, expert_data = 1, micro_batches = 1, chunks = 1;
  std::vector<GroupSpan> spans;   // by GroupKind
  std::vector<StagePlan> stages;
  size_t fullest = 0, slowest = 0;
  double bubble = 0;              // idle share of the pipeline, from its schedule
  StepSeconds seconds;
  double flops_per_token = 0, flops_per_step = 0, tokens_per_step = 0;
  int64_t parameters = 0, active_parameters = 0;

  const MemoryPlan& memory() const { return stages[fullest].memory; }
  double tokens_per_second() const { return tokens_per_step / seconds.total(); }
  double flops_per_second_per_rank() const { return flops_per_step / seconds.total() / static_cast<double>(ranks); }
};

// Plans of one model on one machine; what layouts share is computed once.
class Planner {
 public:
  Planner(const ModelLayers& layers, const Machine& machine) : layers_(layers), machine_(machine) {}
  // `config`: finalized and valid for `ranks`, of the same model whatever the layout. UserError where something does not divide.
  Plan plan(const Config& config, int64_t ranks);

 private:
  const LocalLayer& local(size_t layer_class, const LayerShards& shards);
  double idle_passes(const PipelineSizes& sizes);

  const ModelLayers& layers_;
  const Machine& machine_;
  std::map<std::array<int64_t, 5>, LocalLayer> local_;
  std::map<std::array<int64_t, 3>, double> idle_;
};

}  // namespace ponte
