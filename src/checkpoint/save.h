// One checkpoint of a run: weights, optimizer, random state and position in Megatron's torch_dist or fsdp_dtensor format, published whole or not at all.
#pragma once
#include <memory>
#include <optional>
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

// Whether what is written is copied first, so that training may go on: into a buffer that is kept for the next checkpoint.
enum class Staging { none, copied };
enum class Wait { no, yes };

struct PublishedCheckpoint {
  fs::path folder;
  int64_t iteration = 0, best_iteration = -1;  // the best validation it knows of
};

// Writes <root>/iter_<step> in two acts: begin() fixes what is written, and a thread of each rank writes its share; finish() publishes when every rank
// has written, and then moves the trackers onto it. Any failure (a full disk included) leaves the older checkpoints as they were, on every rank. Both acts
// are collective over content.world; `root` is a folder all ranks see.
class CheckpointWriter {
 public:
  CheckpointWriter();
  ~CheckpointWriter();  // waits for this rank's thread; what is not published goes away
  // None may be under way. Staging::none: the model and the optimizer stay as they are until finish(Wait::yes). What `content` refers to outlives finish(),
  // but for the tensors and the state, which are copied when staged.
  void begin(const fs::path& root, const CheckpointContent& content, Staging staging);
  // nullopt: nothing is under way, or (Wait::no) some rank still writes. AgreedError when writing failed on some rank.
  std::optional<PublishedCheckpoint> finish(Wait wait);
  bool under_way() const { return save_ != nullptr; }
  uint64_t staged_bytes() const;  // size of the buffer

 private:
  struct Save;
  void join_parts();
  struct StagingBuffer;
  std::unique_ptr<StagingBuffer> staging_;
  std::unique_ptr<Save> save_;
};

// Both acts at once. Returns the iteration's folder.
fs::path save_checkpoint(const fs::path& root, const CheckpointContent& content);

}  // namespace ponte
