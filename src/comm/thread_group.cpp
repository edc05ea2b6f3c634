#include "comm/thread_group.h"

#include <ATen/Parallel.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/maximum.h>

#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>

#include "base/errors.h"

namespace ponte {
namespace {

// Where the ranks of one group meet: each posts a tensor, all wait, all read, all wait again before anyone moves on.
class MeetingPoint {
 public:
  explicit MeetingPoint(int64_t size) : size_(size), posted_(size) {}
  int64_t size() const { return size_; }

  void arrive() {
    std::unique_lock lock(mutex_);
    check();
    const int64_t round = round_;
    if (++waiting_ == size_) {
      waiting_ = 0;
      ++round_;
      all_here_.notify_all();
      return;
    }
    all_here_.wait(lock, [&] { return round_ != round || abandoned_; });
    if (round_ == round) check();
  }

  void abandon() {
    std::lock_guard lock(mutex_);
    abandoned_ = true;
    all_here_.notify_all();
  }

  at::Tensor& posted(int64_t rank) { return posted_[rank]; }

 private:
  void check() const {
    if (abandoned_) fail("collective over {} threads: another rank has stopped", size_);
  }
  const int64_t size_;
  std::mutex mutex_;
  std::condition_variable all_here_;
  std::vector<at::Tensor> posted_;
  int64_t waiting_ = 0, round_ = 0;
  bool abandoned_ = false;
};

class ThreadGroup final : public Group {
 public:
  ThreadGroup(std::shared_ptr<MeetingPoint> meeting, int64_t rank) : meeting_(std::move(meeting)), rank_(rank) {}
  int64_t rank() const override { return rank_; }
  int64_t size() const override { return meeting_->size(); }
  void abandon() { meeting_->abandon(); }

  void all_reduce(at::Tensor& tensor, ReduceOp op) override {
    at::NoGradGuard off;
    tensor.copy_(exchange(tensor, [&] { return reduced([](const at::Tensor& t) { return t; }, op); }));
  }
  at::Tensor all_gather(const at::Tensor& tensor) override {
    at::NoGradGuard off;
    return exchange(tensor, [&] {
      std::vector<at::Tensor> parts;
      for (int64_t r = 0; r < size(); ++r) parts.push_back(meeting_->posted(r));
      return at::cat(parts);
    });
  }
  at::Tensor reduce_scatter_sum(const at::Tensor& tensor) override {
    at::NoGradGuard off;
    PONTE_ASSERT(tensor.size(0) % size() == 0);
    const int64_t rows = tensor.size(0) / size();
    return exchange(tensor, [&] { return reduced([&](const at::Tensor& t) { return t.narrow(0, rank_ * rows, rows); }, ReduceOp::sum); });
  }
  void broadcast(at::Tensor& tensor, int64_t root) override {
    at::NoGradGuard off;
    tensor.copy_(exchange(tensor, [&] { return meeting_->posted(root).clone(); }));
  }
  void barrier() override { meeting_->arrive(); }

 private:
  template <class Read>
  at::Tensor exchange(const at::Tensor& mine, Read read) {
    meeting_->posted(rank_) = mine;
    meeting_->arrive();
    at::Tensor result = read();
    meeting_->arrive();  // nobody changes what it posted before everybody has read it
    return result;
  }
  template <class Part>
  at::Tensor reduced(Part part, ReduceOp op) {
    at::Tensor sum = part(meeting_->posted(0)).clone();
    for (int64_t r = 1; r < size(); ++r) sum = op == ReduceOp::sum ? sum.add_(part(meeting_->posted(r))) : at::maximum(sum, part(meeting_->posted(r)));
    return sum;
  }
  std::shared_ptr<MeetingPoint> meeting_;
  int64_t rank_;
};

}  // namespace

std::vector<std::shared_ptr<Group>> thread_groups(int64_t size) {
  if (size == 1) return {single_group()};
  const auto meeting = std::make_shared<MeetingPoint>(size);
  std::vector<std::shared_ptr<Group>> groups;
  for (int64_t r = 0; r < size; ++r) groups.push_back(std::make_shared<ThreadGroup>(meeting, r));
  return groups;
}

void run_tensor_parallel(int64_t size, const std::function<void(const Groups&)>& body) {
  const auto tensor = thread_groups(size);
  std::mutex mutex;
  std::exception_ptr first;
  const auto rank = [&](int64_t r) {
    try {
      Groups groups = single_groups();
      groups.tensor = tensor[r];
      body(groups);
    } catch (...) {
      std::lock_guard lock(mutex);
      if (!first) first = std::current_exception();
      if (auto* group = dynamic_cast<ThreadGroup*>(tensor[r].get())) group->abandon();
    }
  };
  std::vector<std::thread> threads;
  for (int64_t r = 0; r < size; ++r) threads.emplace_back(rank, r);
  for (std::thread& thread : threads) thread.join();
  if (first) std::rethrow_exception(first);
}

}  // namespace ponte
