#include "convert/checkpoint_target.h"

#include <algorithm>

#include "base/errors.h"
#include "convert/segment_source.h"

namespace ponte {
namespace {

// Setting the tracker of a training run back would make its next start forget everything.
void refuse_training_runs(const fs::path& root, const std::string& iteration) {
  std::vector<std::string> others;
  for (const auto& entry : fs::directory_iterator(root))
    if (const std::string name = entry.path().filename().string(); name.starts_with("iter_") && name != iteration) others.push_back(name);
  std::sort(others.begin(), others.end());
  require(others.empty(), "{} holds {}: the checkpoints of a training run, which would start again from {}; give another path, or remove them first", root,
          join(others, ", "), iteration);
}

bool is_absent_or_empty(const fs::path& root) { return !fs::exists(root) || (fs::is_directory(root) && fs::is_empty(root)); }

}  // namespace

CheckpointTarget::CheckpointTarget(fs::path root, std::string iteration, StagedDirectory::Existing existing, std::string_view writer)
    : root_(std::move(root)), iteration_(std::move(iteration)), fresh_(is_absent_or_empty(root_)) {
  require(fresh_ || existing == StagedDirectory::Existing::replace, "{} already exists: give another path, or --overwrite to replace its {}", root_,
          iteration_);
  require(fresh_ || is_native_checkpoint(root_), "{} exists and is no Megatron checkpoint; --overwrite replaces only those", root_);
  if (fresh_) return;
  lock_.emplace(root_, writer);
  remove_leftovers(root_, Writers::none_alive);
  refuse_training_runs(root_, iteration_);
}

void CheckpointTarget::publish(const std::function<void(const fs::path& folder)>& write_iteration,
                               const std::function<void(const fs::path& root)>& write_trackers) {
  if (!fresh_) {
    StagedDirectory staged(root_ / iteration_, StagedDirectory::Existing::replace);
    write_iteration(staged.path());
    staged.publish();
    write_trackers(root_);
    return;
  }
  StagedDirectory staged(root_, StagedDirectory::Existing::replace);
  fs::create_directories(staged.path() / iteration_);
  write_iteration(staged.path() / iteration_);
  write_trackers(staged.path());
  staged.publish();
}

}  // namespace ponte
