// Names inside a folder of checkpoints, as Megatron Bridge lays it out: iter_0000500/, latest_checkpointed_iteration.txt, latest_train_state.pt.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/file.h"

namespace ponte {

inline constexpr const char* kLatestIteration = "latest_checkpointed_iteration.txt";
inline constexpr const char* kLatestTrainState = "latest_train_state.pt";
inline constexpr const char* kRunRecord = "ponte/run.json";  // in an iteration's folder: what only Ponte keeps

std::string iteration_folder_name(int64_t iteration);          // iter_0000500
std::optional<int64_t> iteration_of(const fs::path& folder);   // 500; nullopt for any other name
std::vector<int64_t> iterations_in(const fs::path& root);      // ascending; empty when there is no such folder

// The iteration to resume from: `wanted` when above 0, else the one the tracker names, else (no tracker) the newest of Ponte's own. nullopt when
// `root` holds no checkpoint. UserError when the tracker names a folder that is not there, or is not a number. `root` may be an iteration's folder
// itself.
struct FoundCheckpoint {
  fs::path folder;
  int64_t iteration = 0;
};
std::optional<FoundCheckpoint> find_checkpoint(const fs::path& root, int64_t wanted);

// A launch that is started again goes on from what it has saved itself, and from nothing that lay in `root` before: the mark is made before its first
// checkpoint, and its time, which the file system gives, is compared with the tracker's. No mark: nothing was saved.
void mark_launch(const fs::path& root);  // nothing when it has been marked and saved
bool saved_since_launch(const fs::path& root);
void remove_launch_mark(const fs::path& root);

// Removes all but the newest `keep` iterations (keep < 0: none is removed), `best_iteration`, multiples of `retain_interval` (0: none) and the
// iteration the tracker names. Returns what was removed.
std::vector<int64_t> remove_old_checkpoints(const fs::path& root, int64_t keep, int64_t best_iteration, int64_t retain_interval);

}  // namespace ponte
