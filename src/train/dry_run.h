// One rank's training step of a run of any size, on tensors that have shapes and no memory, with ranks that are not there (comm/lone_ranks.h): the model is
// built, micro-batches go forward and backward through this rank's stages as its schedule says, gradients are reduced, the optimizer steps. What does not
// fit together at full scale shows here, and what the rank holds and hands to collectives is set beside the plan of the same run.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "comm/lone_ranks.h"
#include "config/config.h"
#include "layout/mesh.h"
#include "layout/pipeline_stages.h"

namespace ponte {

// Bytes of the program beside the plan's.
struct DryRunRow {
  std::string name;        // weights, gradients, optimizer; or a group: groups of the same ranks are one, under the first's name
  std::string collective;  // "" for what is held
  int64_t ranks = 1, calls = 0;
  double counted = 0, planned = 0;
  double left_out = 0;     // numbers a plan does not list: counts of experts, sums of losses, a row of a parameter that cannot be cut
  bool agrees() const { return counted - planned <= left_out && planned - counted <= left_out; }
};

struct DryRun {
  int64_t rank = 0, ranks = 1;
  Coordinates place;
  std::vector<Stage> chunks;
  int64_t parameters = 0, elements = 0;  // tensors, and of these
  int64_t micro_batches = 0;             // that were run
  std::vector<DryRunRow> held, sent;     // sent: of these micro-batches and the end of a step
  DryRunRow peak;                        // all tensors of the device at the fullest moment of the step; left_out: what the plan reserves
  std::shared_ptr<const LoneRank> calls;

  bool agrees() const;
};

// `config`: finalized and valid for `ranks`. Runs as many micro-batches as fill the pipeline twice, or the step's where that is fewer. Experts are used evenly.
// UserError when there is no such rank, and when something does not fit: it says what, where the rank is in its step, and what it asked of others last.
DryRun dry_run(const Config& config, int64_t ranks, int64_t rank);

}  // namespace ponte
