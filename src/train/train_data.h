// The run's data: tokenizer facts and sample sources.
#pragma once
#include "train/run.h"

namespace ponte {

// Fills tokenizer_folder, eod_id, data and state.data. A tokenizer that only names the model's vocabulary may be missing; one that decides
// where documents end may not.
void open_data(const ResolvedRun& resolved, Run& run);

}  // namespace ponte
