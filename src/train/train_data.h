// The run's data: tokenizer facts and sample sources.
#pragma once
#include "train/run.h"

namespace ponte {

// Fills tokenizer_folder, eod_id, data and state.data. A tokenizer that only names the model's vocabulary may be missing; one that decides
// where documents end may not.
void open_data(const ResolvedRun& resolved, Run& run);

// What dataset.order means for this run. Unless it says: the order of the checkpoint the run goes on from, for positions count in it (another program's
// positions count in Megatron's); Megatron's for mock data, which are its own; for a new run, permutation.
std::string sample_order(const Run& run);

}  // namespace ponte
