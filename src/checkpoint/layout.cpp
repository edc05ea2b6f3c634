#include "checkpoint/layout.h"

#include <algorithm>
#include <charconv>
#include <cstdio>

#include "base/errors.h"

namespace ponte {
namespace {

constexpr const char* kLaunchMark = ".ponte.launch";

std::optional<int64_t> to_integer(std::string_view text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || text.empty() || value < 0) return std::nullopt;
  return value;
}

std::optional<int64_t> tracked_iteration(const fs::path& root) {
  const fs::path tracker = root / kLatestIteration;
  if (!fs::exists(tracker)) return std::nullopt;
  std::string text = read_file(tracker);
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back()))) text.pop_back();
  const std::optional<int64_t> iteration = to_integer(text);
  require(text != "release", "{} holds \"release\": a model without a run to continue; start from it with checkpoint.pretrained_checkpoint={}", tracker, root);
  require(iteration.has_value(), "{} holds \"{}\": expected an iteration number", tracker, text);
  return iteration;
}

// A run stopped between publishing its first checkpoint and writing the tracker. Only folders that appear whole are trusted without a tracker.
std::optional<int64_t> newest_untracked(const fs::path& root) {
  std::vector<int64_t> all = iterations_in(root);
  while (!all.empty() && !fs::exists(root / iteration_folder_name(all.back()) / kRunRecord)) all.pop_back();
  return all.empty() ? std::nullopt : std::optional(all.back());
}

}  // namespace

std::string iteration_folder_name(int64_t iteration) {
  char name[40];
  std::snprintf(name, sizeof name, "iter_%07lld", static_cast<long long>(iteration));
  return name;
}

std::optional<int64_t> iteration_of(const fs::path& folder) {
  const std::string name = folder.filename().string();
  if (name.rfind("iter_", 0) != 0) return std::nullopt;
  return to_integer(std::string_view(name).substr(5));
}

std::vector<int64_t> iterations_in(const fs::path& root) {
  std::vector<int64_t> out;
  if (!fs::is_directory(root)) return out;
  for (const auto& entry : fs::directory_iterator(root))
    if (const std::optional<int64_t> iteration = iteration_of(entry.path()); iteration && entry.is_directory()) out.push_back(*iteration);
  std::sort(out.begin(), out.end());
  return out;
}

std::optional<FoundCheckpoint> find_checkpoint(const fs::path& root, int64_t wanted) {
  require(!fs::exists(root) || fs::is_directory(root), "{}: no folder, so that no checkpoint can be there", root);
  if (const std::optional<int64_t> own = iteration_of(root); own && fs::exists(root / ".metadata")) return FoundCheckpoint{root, *own};
  std::optional<int64_t> iteration = wanted > 0 ? wanted : tracked_iteration(root);
  if (!iteration) iteration = newest_untracked(root);
  if (!iteration) return std::nullopt;
  const fs::path folder = root / iteration_folder_name(*iteration);
  require(fs::is_directory(folder), "{}: {} is not there; found {}", root,
          wanted > 0 ? format("checkpoint.ckpt_step {}", wanted) : format("iteration {} named by {}", *iteration, kLatestIteration),
          iterations_in(root).empty() ? std::string("no iterations") : format("iterations {}", iterations_in(root)));
  return FoundCheckpoint{folder, *iteration};
}

void mark_launch(const fs::path& root) {
  if (!saved_since_launch(root)) write_file_atomically(root / kLaunchMark, "");
}

bool saved_since_launch(const fs::path& root) {
  std::error_code error;
  const fs::file_time_type launched = fs::last_write_time(root / kLaunchMark, error);
  if (error) return false;
  const fs::file_time_type saved = fs::last_write_time(root / kLatestIteration, error);
  return !error && saved >= launched;
}

void remove_launch_mark(const fs::path& root) {
  std::error_code ignored;
  fs::remove(root / kLaunchMark, ignored);
}

std::vector<int64_t> remove_old_checkpoints(const fs::path& root, int64_t keep, int64_t best_iteration, int64_t retain_interval) {
  std::vector<int64_t> removed;
  if (keep < 0) return removed;
  const std::vector<int64_t> all = iterations_in(root);
  const std::optional<int64_t> tracked = tracked_iteration(root);
  const size_t old = all.size() - std::min(all.size(), static_cast<size_t>(keep));
  for (size_t i = 0; i < old; ++i) {
    const int64_t iteration = all[i];
    if (iteration == best_iteration || iteration == tracked || (retain_interval > 0 && iteration % retain_interval == 0)) continue;
    remove_at_once(root / iteration_folder_name(iteration));
    removed.push_back(iteration);
  }
  return removed;
}

}  // namespace ponte
