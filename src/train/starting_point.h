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

  std::string fingerprint() const;  // the same on every rank, or they would train apart
};

// Chooses and opens it. Refuses data that is not the checkpoint's. No collectives.
StartingPoint open_starting_point(const ResolvedRun& resolved, const Run& run);
// This rank's part of the content, when all ranks have opened the same. No collectives.
void check_starting_point(StartingPoint& start, const Run& run);
// When every rank's part is right. Rank 0 says on stderr what it is. No collectives.
void go_to_starting_point(StartingPoint& start, Run& run);

}  // namespace ponte
