// One reader, several workers, results in the reader's order: items flow through with a bound on their bytes, so memory does not depend on
// the input, and the output does not depend on the number of threads. The first failure anywhere surfaces at its place in the order.
#pragma once
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

namespace ponte {

template <class In, class Out>
class OrderedPipeline {
 public:
  using Read = std::function<bool(In&)>;              // on one thread; false at the end
  using Work = std::function<Out(In&)>;               // each worker has its own
  struct Stages {
    Read read;
    std::function<Work()> make_worker;                // called on the worker's thread
    std::function<uint64_t(const In&)> bytes;
  };

  OrderedPipeline(Stages stages, int64_t workers, uint64_t byte_budget)
      : stages_(std::move(stages)), byte_budget_(byte_budget), item_budget_(4 * workers) {
    threads_.emplace_back([this] { run_reader(); });
    for (int64_t i = 0; i < workers; ++i) threads_.emplace_back([this] { run_worker(); });
  }
  OrderedPipeline(const OrderedPipeline&) = delete;
  ~OrderedPipeline() {
    {
      std::lock_guard lock(mutex_);
      stopped_ = true;
    }
    changed_.notify_all();
  }

  // The next result in order; false after the last. Rethrows what reading or working on it threw.
  bool next(Out& out) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return done_.contains(taken_) || (ended_ && taken_ == read_); });
    const auto it = done_.find(taken_);
    if (it == done_.end()) return false;
    Slot slot = std::move(it->second);
    done_.erase(it);
    ++taken_;
    bytes_ -= slot.bytes;
    lock.unlock();
    changed_.notify_all();
    if (slot.error) std::rethrow_exception(slot.error);
    out = std::move(*slot.out);
    return true;
  }

 private:
  struct Slot {
    std::optional<Out> out;
    std::exception_ptr error;
    uint64_t bytes = 0;
  };
  struct Task {
    int64_t number;
    In in;
    uint64_t bytes;
  };

  void finish(int64_t number, Slot slot) {
    {
      std::lock_guard lock(mutex_);
      done_.emplace(number, std::move(slot));
    }
    changed_.notify_all();
  }

  void run_reader() {
    for (;;) {
      In in;
      bool more = false;
      std::exception_ptr error;
      try {
        more = stages_.read(in);
      } catch (...) {
        error = std::current_exception();
      }
      std::unique_lock lock(mutex_);
      const uint64_t bytes = more ? stages_.bytes(in) : 0;
      // One item always passes, however large.
      changed_.wait(lock, [&] { return stopped_ || read_ == taken_ || (bytes_ + bytes <= byte_budget_ && read_ - taken_ < item_budget_); });
      if (stopped_) return;
      if (error) done_.emplace(read_++, Slot{std::nullopt, error, 0});
      if (more) {
        bytes_ += bytes;
        tasks_.push_back({read_++, std::move(in), bytes});
      } else {
        ended_ = true;
      }
      lock.unlock();
      changed_.notify_all();
      if (!more) return;
    }
  }

  void run_worker() {
    Work work;
    for (;;) {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return stopped_ || ended_ || !tasks_.empty(); });
      if (stopped_ || tasks_.empty()) return;
      Task task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      Slot slot;
      slot.bytes = task.bytes;
      try {
        if (!work) work = stages_.make_worker();
        slot.out = work(task.in);
      } catch (...) {
        slot.error = std::current_exception();
      }
      finish(task.number, std::move(slot));
    }
  }

  Stages stages_;
  const uint64_t byte_budget_;
  const int64_t item_budget_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Task> tasks_;
  std::map<int64_t, Slot> done_;
  int64_t read_ = 0, taken_ = 0;  // items handed out by the reader, and by next()
  uint64_t bytes_ = 0;            // of items between the two
  bool ended_ = false, stopped_ = false;
  std::vector<std::jthread> threads_;  // last: joined before anything above goes
};

}  // namespace ponte
