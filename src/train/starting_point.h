// Where a run's values come from: a checkpoint it goes on from, weights alone, or a seed. In two acts, so that a damaged checkpoint is an error on every rank
// before any of them has taken a value from it.
#pragma once
#include <memory>
#include <optional>

#include "checkpoint/layout.h"
#include "convert/segment_source.h"
#include "train/run.h"

namespace ponte {

struct StartingPoint {
  std::optional<FoundCheckpoint> resumed;
  std::unique_ptr<NativeSource> checkpoint;  // of `resumed`
  fs::path weights_path;                     // "": none
  std::unique_ptr<WeightSource> weights;
  double seconds = 0;  // opening and checking
};

// Chooses and opens it. Cheap refusals first (data that is not the checkpoint's), then this rank's part of the content. No collectives.
StartingPoint open_starting_point(const ResolvedRun& resolved, const Run& run);
// When it is open on every rank. Rank 0 says on stderr what it is. No collectives.
void go_to_starting_point(StartingPoint& start, Run& run);

}  // namespace ponte
