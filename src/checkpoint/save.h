// One checkpoint of a run: weights, optimizer, random state and position in Megatron's torch_dist format, published whole or not at all.
#pragma once
#include <string>

#include "base/file.h"
#include "checkpoint/run_state.h"
#include "config/config.h"
#include "model/model.h"
#include "optim/adamw.h"
#include "optim/schedule.h"

namespace ponte {

struct CheckpointContent {
  const Config& config;
  Model& model;
  AdamW* optimizer = nullptr;         // null: weights only (checkpoint.save_optim=false)
  const Schedule* schedule = nullptr;
  const RunState& state;
  fs::path tokenizer_folder;          // "": none is copied
};

// Writes <root>/iter_<step> and then moves the trackers onto it. Any failure (a full disk included) leaves the older checkpoints as they were.
// Returns the folder.
fs::path save_checkpoint(const fs::path& root, const CheckpointContent& content);

}  // namespace ponte
