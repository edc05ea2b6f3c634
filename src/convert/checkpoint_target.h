// A folder of checkpoints that gets one iteration and its trackers: whole or not at all, and never at the cost of a training run.
#pragma once
#include <functional>
#include <optional>

#include "base/file.h"
#include "base/folder_lock.h"

namespace ponte {

class CheckpointTarget {
 public:
  // `iteration`: "iter_0000003". An existing root is only touched with Existing::replace, and only when it is a Megatron checkpoint without other
  // iterations: UserError otherwise. `writer` ("an import") is what other writers are told.
  CheckpointTarget(fs::path root, std::string iteration, StagedDirectory::Existing existing, std::string_view writer);
  // `write_iteration` fills the iteration's folder, `write_trackers` the root beside it. A fresh root appears at once with both; in an existing one the
  // old iteration stands until the new one is complete.
  void publish(const std::function<void(const fs::path& folder)>& write_iteration, const std::function<void(const fs::path& root)>& write_trackers);

 private:
  fs::path root_;
  std::string iteration_;
  bool fresh_;
  std::optional<FolderLock> lock_;
};

}  // namespace ponte
