// Continuing a run from its own checkpoint or from one Megatron wrote: weights, optimizer state, position.
#pragma once
#include <string>

#include "base/file.h"
#include "checkpoint/layout.h"
#include "checkpoint/run_record.h"
#include "config/config.h"
#include "convert/segment_source.h"
#include "optim/adamw.h"
#include "parallel/rank_model.h"

namespace ponte {

// Which data the checkpoint's positions count in; nullopt when another program wrote it.
std::optional<DataRecord> stored_data(const FoundCheckpoint& checkpoint);

struct LoadedRun {
  RunState state;
  Schedule schedule;
  bool has_optimizer = false;
};

// Everything a checkpoint holds into the live objects. `source`: the checkpoint, opened. `optimizer` null: its state is not wanted. UserError where the
// checkpoint does not hold what is wanted, is not what was written, or is of another model or schedule. Optimizer state of fully_reshardable,
// dp_reshardable (whatever tensor-, pipeline- and expert-parallel ranks wrote it) and fsdp_dtensor.
LoadedRun load_run(const NativeSource& source, const Config& config, const Schedule& schedule, RankModel& model, AdamW* optimizer);

}  // namespace ponte
