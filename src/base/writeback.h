// Starts writing files to disk while they are still being produced: the fsync at the end then waits for the last few megabytes and not for the whole file.
#pragma once
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <set>
#include <thread>

#include "base/file.h"

namespace ponte {

class EarlyWriteback {
 public:
  EarlyWriteback();
  ~EarlyWriteback();  // ends its thread; files reported must still be open
  EarlyWriteback(const EarlyWriteback&) = delete;
  // `bytes` more of `file` were written. From any thread; never waits for the disk.
  void wrote(const OutputFile& file, uint64_t bytes);

 private:
  void run();
  static constexpr uint64_t kBytes = 32 << 20;  // between two starts
  std::mutex mutex_;
  std::condition_variable changed_;
  std::set<int> dirty_;  // descriptors written to since the last start
  uint64_t bytes_ = 0;
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace ponte
