#include "base/writeback.h"

#include <fcntl.h>

#include <utility>

namespace ponte {

EarlyWriteback::EarlyWriteback() : thread_([this] { run(); }) {}

EarlyWriteback::~EarlyWriteback() {
  {
    std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void EarlyWriteback::wrote(const OutputFile& file, uint64_t bytes) {
  std::lock_guard lock(mutex_);
  dirty_.insert(file.descriptor());
  bytes_ += bytes;
  if (bytes_ >= kBytes) changed_.notify_all();
}

void EarlyWriteback::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return bytes_ >= kBytes || ending_; });
    if (ending_) return;
    const auto files = std::exchange(dirty_, {});
    bytes_ = 0;
    lock.unlock();
    // Only a hint: what it fails to do, or the file system cannot, is left to fsync, which reports errors.
    for (int descriptor : files) ::sync_file_range(descriptor, 0, 0, SYNC_FILE_RANGE_WRITE);
    lock.lock();
  }
}

}  // namespace ponte
