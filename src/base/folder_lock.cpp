// flock on a small file that says who holds it. The file goes when the lock does, so a waiter may lock a file that has just been removed: it then looks again.
#include "base/folder_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <ctime>

#include "base/errors.h"
#include "base/log.h"

namespace ponte {
namespace {

std::string own_description(std::string_view purpose) {
  char host[256] = "", time[40];
  ::gethostname(host, sizeof host - 1);
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  std::strftime(time, sizeof time, "%Y-%m-%d %H:%M:%S", &local);
  return format("{}, process {} on {}, since {}", purpose, ::getpid(), host, time);
}

std::string description_in(int fd) {
  char text[512];
  const ssize_t n = ::pread(fd, text, sizeof text, 0);
  return n > 0 ? std::string(text, static_cast<size_t>(n)) : "another process";
}

bool is_still(const fs::path& file, int fd) {
  struct stat named, opened;
  return ::stat(file.c_str(), &named) == 0 && ::fstat(fd, &opened) == 0 && named.st_ino == opened.st_ino && named.st_dev == opened.st_dev;
}

}  // namespace

FolderLock::FolderLock(const fs::path& folder, std::string_view purpose) : folder_(folder) {
  std::error_code error;
  made_folder_ = fs::create_directories(folder, error);
  require(!error, "{}: cannot be made: {}", folder, error.message());
  if (::access(folder.c_str(), W_OK) != 0) fail_errno(format("{}: cannot be written to", folder));
  acquire(folder / kFolderLock, purpose);
}

void FolderLock::acquire(const fs::path& file, std::string_view purpose) {
  while (fd_ < 0) {
    const int fd = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0) fail_errno(format("{}: cannot be written to", folder_));
    if (::flock(fd, LOCK_EX | LOCK_NB) == 0) {
      if (is_still(file, fd)) fd_ = fd;
      else ::close(fd);
      continue;
    }
    const int code = errno;
    const std::string holder = code == EWOULDBLOCK ? description_in(fd) : "";
    ::close(fd);
    if (code == EINTR) continue;
    require(code != EWOULDBLOCK, "{} is being written to by {}; stop it, or choose another folder", folder_, holder);
    log_warning("{}: its file system has no locks ({}); make sure that nothing else writes there", folder_, std::generic_category().message(code));
    return;
  }
  const std::string text = own_description(purpose);
  if (::ftruncate(fd_, 0) != 0 || ::pwrite(fd_, text.data(), text.size(), 0) < 0) log_warning("{}: {}", file, std::generic_category().message(errno));
}

FolderLock::~FolderLock() {
  if (fd_ >= 0) {
    ::unlink((folder_ / kFolderLock).c_str());
    ::close(fd_);
  }
  std::error_code ignored;
  if (made_folder_) fs::remove(folder_, ignored);  // only when empty
}

}  // namespace ponte
