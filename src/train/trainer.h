// The training loop.
#pragma once
#include "train/run.h"

namespace ponte {

// Trains from where the run stands to train.train_iters, evaluating and saving on the way. Returns early, saved, on a signal or where
// train.exit_interval or exit_duration_in_mins say so.
void train(Run& run);

}  // namespace ponte
