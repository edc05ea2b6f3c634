// A training run as one value: everything the loop works on, set up from a resolved configuration.
#pragma once
#include <memory>
#include <optional>
#include <string>

#include "base/folder_lock.h"
#include "checkpoint/layout.h"
#include "checkpoint/run_state.h"
#include "comm/ranks.h"
#include "config/config.h"
#include "corpus/gpt_dataset.h"
#include "data/batch_loader.h"
#include "optim/adamw.h"
#include "optim/loss_scaler.h"
#include "optim/schedule.h"
#include "parallel/data_parallel.h"
#include "parallel/rank_model.h"
#include "recipes/resolve.h"

namespace ponte {

struct Run {
  std::unique_ptr<FolderLock> save_lock;  // of checkpoint.save; null: nothing is saved
  Config config;
  fs::path tokenizer_folder;  // "": none
  int32_t eod_id = -1;
  DatasetSplits data;
  std::shared_ptr<Ranks> ranks;
  Groups groups;
  std::unique_ptr<RankModel> model;
  std::unique_ptr<DataParallel> replicas;
  std::unique_ptr<AdamW> optimizer;
  Schedule schedule;
  LossScaler loss_scaler;
  RunState state;
  std::optional<FoundCheckpoint> found;  // in checkpoint.load; rank 0's find, so that all ranks take the same one while another run writes there

  bool speaks() const { return ranks->rank() == 0; }  // one rank writes logs, files and checkpoints' common parts
};

// Checks the configuration, opens the data, builds the model and brings it to its starting point: a checkpoint of this run, pretrained weights, or a
// random start. Says on stderr which it is. UserError lists what is wrong, or the parts this version does not have; what is checked is checked on every
// rank before any training collective, and is then an AgreedError.
// `restarts`: how often the launcher has started this run again.
Run set_up_run(const ResolvedRun& resolved, std::shared_ptr<Ranks> ranks = Ranks::single(), const at::Device& device = at::kCPU, int64_t restarts = 0);

// Model, replicas and optimizer of run.config over run.ranks, all values zero.
void build_model(Run& run, const at::Device& device);
Schedule schedule_of(const Config& config);
// Samples Megatron asks of the train, validation and test splits.
std::array<int64_t, 3> requested_samples(const Config& config);

}  // namespace ponte
