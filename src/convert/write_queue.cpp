#include "convert/write_queue.h"

namespace ponte {

WriteQueue::WriteQueue() : thread_([this] { run(); }) {}

WriteQueue::~WriteQueue() {
  if (!thread_.joinable()) return;
  {
    std::lock_guard lock(mutex_);
    items_.clear();
  }
  stop();
}

void WriteQueue::write(OutputFile& file, uint64_t offset, std::span<const std::byte> bytes, std::vector<std::byte>* owner) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return items_.size() < kItems || error_; });
  if (error_) std::rethrow_exception(error_);
  Item item{&file, offset, bytes, {}};
  if (owner) {
    const size_t size = owner->size();
    item.owned = std::move(*owner);  // moving keeps the elements where they are
    *owner = {};
    if (!spare_.empty()) {
      *owner = std::move(spare_.back());
      spare_.pop_back();
    }
    if (owner->size() < size) owner->resize(size);
  }
  items_.push_back(std::move(item));
  changed_.notify_all();
}

void WriteQueue::finish() {
  stop();
  if (error_) std::rethrow_exception(error_);
}

void WriteQueue::stop() {
  {
    std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void WriteQueue::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return !items_.empty() || ending_; });
    if (items_.empty()) return;
    Item item = std::move(items_.front());
    items_.pop_front();
    lock.unlock();
    try {
      item.file->write_at(item.offset, item.bytes);
      writeback_.wrote(*item.file, item.bytes.size());
    } catch (...) {
      lock.lock();
      error_ = std::current_exception();
      items_.clear();
      changed_.notify_all();
      return;
    }
    lock.lock();
    if (!item.owned.empty()) spare_.push_back(std::move(item.owned));
    changed_.notify_all();
  }
}

}  // namespace ponte
