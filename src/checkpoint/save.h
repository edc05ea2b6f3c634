// One checkpoint of a run: weights, optimizer, random state and position in Megatron's torch_dist format, published whole or not at all.
#pragma once
#include <string>

#include "base/file.h"
#include "checkpoint/run_state.h"
#include "comm/group.h"
#include "config/config.h"
#include "optim/adamw.h"
#include "optim/schedule.h"
#include "parallel/rank_model.h"

namespace ponte {

// Rows of a parameter's dim 0 that this rank answers for; the replicas' together are all rows, once.
struct SavedRows {
  const Parameter* parameter;
  Rows rows;
};

struct CheckpointContent {
  const Config& config;
  RankModel& model;
  AdamW* optimizer = nullptr;         // null: weights only (checkpoint.save_optim=false)
  const Schedule* schedule = nullptr;
  const RunState& state;
  fs::path tokenizer_folder;          // "": none is copied
  Group* world = nullptr;             // all ranks of the run, which save together; null: one
  std::vector<SavedRows> rows = {};   // what this rank writes of its parameters, optimizer state included; empty: all of them
};

// Writes <root>/iter_<step> and then moves the trackers onto it. Any failure (a full disk included) leaves the older checkpoints as they were,
// on every rank. `root` is a folder all ranks see. Returns the iteration's folder.
fs::path save_checkpoint(const fs::path& root, const CheckpointContent& content);

}  // namespace ponte
