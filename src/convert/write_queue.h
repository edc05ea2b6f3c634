// One thread that writes, fed by those that read and hash. Buffered writes to one file exclude each other in the kernel, and threads that meet there wait
// far longer than a write takes; a queue keeps the writer busy and everyone else out of its way. What is written starts for the disk at once. Files must
// outlive the queue.
#pragma once
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "base/file.h"
#include "base/writeback.h"

namespace ponte {

class WriteQueue {
 public:
  WriteQueue();
  ~WriteQueue();  // abandons what is still queued when finish() was not called
  // Queues `bytes` for `offset` of `file`. The bytes must stay valid until finish(), or lie in *owner, which is then taken and replaced by another vector of
  // at least its size. Waits while the queue is full. Throws what an earlier write threw.
  void write(OutputFile& file, uint64_t offset, std::span<const std::byte> bytes, std::vector<std::byte>* owner);
  void finish();  // until everything is written; throws what a write threw

 private:
  struct Item {
    OutputFile* file;
    uint64_t offset;
    std::span<const std::byte> bytes;
    std::vector<std::byte> owned;
  };
  void run();
  void stop();
  static constexpr size_t kItems = 12;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Item> items_;
  std::vector<std::vector<std::byte>> spare_;
  std::exception_ptr error_;
  bool ending_ = false;
  EarlyWriteback writeback_;
  std::thread thread_;
};

}  // namespace ponte
