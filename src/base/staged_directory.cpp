// Names beside a target while it is being changed: ".<name>.partial-<writer>" is being built or about to go, ".<name>.replaced-<writer>" is the old content
// on a file system that cannot swap two folders at once. A live writer holds a lock on what it builds, where the file system has locks.
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <optional>

#include "base/errors.h"
#include "base/file.h"
#include "base/writer.h"

namespace ponte {
namespace {

constexpr std::string_view kPartial = ".partial-", kReplaced = ".replaced-";
constexpr long kXfs = 0x58465342, kZfs = 0x2FC12FC1;

// Locks of these are the kernel's own: what can be locked has no writer, in whatever container or before whatever restart it lived.
bool has_local_locks(const fs::path& path) {
  struct statfs info;
  if (::statfs(path.c_str(), &info) != 0) return false;
  const auto type = static_cast<long>(info.f_type);
  return type == EXT4_SUPER_MAGIC || type == BTRFS_SUPER_MAGIC || type == TMPFS_MAGIC || type == OVERLAYFS_SUPER_MAGIC || type == kXfs || type == kZfs;
}

bool nobody_holds(const fs::path& path) {
  if (!has_local_locks(path)) return false;
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const bool free = ::flock(fd, LOCK_EX | LOCK_NB) == 0;
  ::close(fd);
  return free;
}

// ".<name><kind><tag>" in its parts.
struct Sibling {
  std::string name, tag;
  bool replaced = false;
};

std::optional<Sibling> parse_sibling(const std::string& file) {
  for (const std::string_view kind : {kPartial, kReplaced}) {
    const size_t at = file.rfind(kind);
    if (file.empty() || file[0] != '.' || at == std::string::npos || at < 2 || !is_writer_tag(std::string_view(file).substr(at + kind.size()))) continue;
    return Sibling{file.substr(1, at - 1), file.substr(at + kind.size()), kind == kReplaced};
  }
  return std::nullopt;
}

void clear_sibling(const fs::path& path, const Sibling& sibling, Writers writers) {
  if (sibling.tag == writer_tag()) return;
  const WriterState state = writers == Writers::none_alive ? WriterState::gone : writer_state(sibling.tag);
  const bool gone = state == WriterState::gone || (state == WriterState::unknown && fs::is_directory(path) && nobody_holds(path));
  const fs::path target = path.parent_path() / sibling.name;
  std::error_code ignored;
  if (!gone) return;
  if (sibling.replaced && !fs::exists(target)) fs::rename(path, target, ignored);
  else fs::remove_all(path, ignored);
}

bool cannot_exchange(int code) { return code == EINVAL || code == ENOSYS || code == EOPNOTSUPP; }

}  // namespace

fs::path staging_name(const fs::path& target) {
  return target.parent_path() / ("." + target.filename().string() + std::string(kPartial) + writer_tag());
}

fs::path behind_links(const fs::path& path) {
  fs::path out = fs::absolute(path).lexically_normal();
  if (out.filename().empty()) out = out.parent_path();
  for (int hops = 0; fs::is_symlink(out); ++hops) {
    require(hops < 40, "{}: its symbolic links lead in a circle", path);
    out = (out.parent_path() / fs::read_symlink(out)).lexically_normal();
  }
  return out;
}

void remove_leftovers(const fs::path& directory, Writers writers, std::string_view name) {
  std::error_code ignored;
  std::vector<std::pair<fs::path, Sibling>> found;
  for (const auto& entry : fs::directory_iterator(directory, ignored))
    if (const auto sibling = parse_sibling(entry.path().filename().string()); sibling && (name.empty() || sibling->name == name))
      found.emplace_back(entry.path(), *sibling);
  for (const auto& [path, sibling] : found) clear_sibling(path, sibling, writers);
}

void remove_at_once(const fs::path& path) {
  const fs::path doomed = staging_name(path);
  fs::remove_all(doomed);
  fs::rename(path, doomed);
  fs::remove_all(doomed);
}

fs::path exchange_directories(const fs::path& from, const fs::path& to, Exchange how) {
  if (how == Exchange::at_once) {
    if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_EXCHANGE) == 0) return from;
    if (errno == EBUSY) fail("cannot replace {}: it is in use as a mount point; name a folder below it", to);
    if (!cannot_exchange(errno)) fail_errno(format("cannot replace {}", to));
  }
  const fs::path aside = to.parent_path() / ("." + to.filename().string() + std::string(kReplaced) + writer_tag());
  std::error_code error, ignored;
  fs::remove_all(aside, ignored);
  fs::rename(to, aside, error);
  require(!error, "cannot replace {}: {}", to, error.message());
  fs::rename(from, to, error);
  if (error) fs::rename(aside, to, ignored);
  require(!error, "cannot replace {}: {}", to, error.message());
  return aside;
}

StagedDirectory::StagedDirectory(const fs::path& target, Existing existing) : target_(behind_links(target)), existing_(existing) {
  std::error_code error;
  fs::create_directories(target_.parent_path(), error);
  require(!error, "cannot create {}: {}", target_.parent_path(), error.message());
  remove_leftovers(target_.parent_path(), Writers::perhaps_alive, target_.filename().string());
  require(existing == Existing::replace || !fs::exists(target_), "{} already exists: give another path, or --overwrite to replace it", target_);
  staging_ = staging_name(target_);
  fs::remove_all(staging_);
  while (lock_ < 0) make_staging();
}

// Between making and locking it, someone else's clean-up may take the folder for a leftover.
void StagedDirectory::make_staging() {
  std::error_code error;
  fs::create_directory(staging_, error);
  require(!error, "cannot create {}: {}", staging_, error.message());
  const int fd = ::open(staging_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0 && errno == ENOENT) return;
  if (fd < 0) fail_errno(format("cannot open {}", staging_));
  ::flock(fd, LOCK_EX);  // without locks the writer's name has to do
  struct stat named, opened;
  const bool there = ::stat(staging_.c_str(), &named) == 0 && ::fstat(fd, &opened) == 0 && named.st_ino == opened.st_ino;
  if (there) lock_ = fd;
  else ::close(fd);
}

StagedDirectory::~StagedDirectory() {
  std::error_code ignored;
  if (!published_) fs::remove_all(staging_, ignored);
  if (lock_ >= 0) ::close(lock_);
}

void StagedDirectory::publish() {
  PONTE_ASSERT(!published_);
  fsync_tree(staging_);
  std::error_code error;
  if (fs::exists(target_)) {
    require(existing_ == Existing::replace, "{} appeared while it was being written; nothing was replaced", target_);
    const fs::path old = exchange_directories(staging_, target_, Exchange::at_once);
    published_ = true;
    fsync_directory(target_.parent_path());
    fs::remove_all(old, error);
  } else {
    fs::rename(staging_, target_, error);
    require(!error, "cannot publish {}: {}", target_, error.message());
    published_ = true;
  }
  fsync_directory(target_.parent_path());
}

}  // namespace ponte
