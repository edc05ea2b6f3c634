#include "comm/thread_group.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/maximum.h>

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <map>
#include <mutex>
#include <thread>

#include "base/errors.h"

namespace ponte {
namespace {

// Where the ranks of one group meet: each posts a tensor, all wait, all read, all wait again before anyone moves on. Messages wait in queues.
class MeetingPoint {
 public:
  explicit MeetingPoint(int64_t size) : size_(size), posted_(size), rows_(size), queues_(size * size) {}
  int64_t size() const { return size_; }

  void arrive() {
    std::unique_lock lock(mutex_);
    check();
    const int64_t round = round_;
    if (++waiting_ == size_) {
      waiting_ = 0;
      ++round_;
      changed_.notify_all();
      return;
    }
    changed_.wait(lock, [&] { return round_ != round || abandoned_; });
    if (round_ == round) check();
  }

  void abandon() {
    std::lock_guard lock(mutex_);
    abandoned_ = true;
    changed_.notify_all();
  }

  void put(int64_t from, int64_t to, at::Tensor message) {
    std::lock_guard lock(mutex_);
    check();
    Queue& queue = queues_[from * size_ + to];
    queue.messages.emplace(queue.sent++, std::move(message));
    changed_.notify_all();
  }
  // The place in the queue of a message that will be taken: receives get theirs when they are started, whenever they are waited for.
  int64_t expect(int64_t from, int64_t to) {
    std::lock_guard lock(mutex_);
    return queues_[from * size_ + to].expected++;
  }
  at::Tensor take(int64_t from, int64_t to, int64_t place) {
    std::unique_lock lock(mutex_);
    Queue& queue = queues_[from * size_ + to];
    changed_.wait(lock, [&] { return queue.messages.contains(place) || abandoned_; });
    if (!queue.messages.contains(place)) check();
    return std::move(queue.messages.extract(place).mapped());
  }

  at::Tensor& posted(int64_t rank) { return posted_[rank]; }
  std::vector<int64_t>& rows(int64_t rank) { return rows_[rank]; }

 private:
  void check() const {
    if (abandoned_) fail("collective over {} threads: another rank has stopped", size_);
  }
  const int64_t size_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<at::Tensor> posted_;
  std::vector<std::vector<int64_t>> rows_;
  struct Queue {
    std::map<int64_t, at::Tensor> messages;  // by place
    int64_t sent = 0, expected = 0;
  };
  std::vector<Queue> queues_;  // [from, to]
  int64_t waiting_ = 0, round_ = 0;
  bool abandoned_ = false;
};

std::vector<int64_t> starts(std::span<const int64_t> rows) {
  std::vector<int64_t> out = {0};
  for (const int64_t n : rows) out.push_back(out.back() + n);
  return out;
}

// Received tensors are filled when they are waited for; what was sent has been copied already.
class Receipts final : public PendingTransfers {
 public:
  struct Receive {
    int64_t from, place;
    at::Tensor into;
  };
  Receipts(std::shared_ptr<MeetingPoint> meeting, int64_t rank, std::vector<Receive> receives)
      : meeting_(std::move(meeting)), rank_(rank), receives_(std::move(receives)) {}
  void wait() override {
    at::NoGradGuard off;
    for (Receive& r : receives_) {
      const at::Tensor message = meeting_->take(r.from, rank_, r.place);
      PONTE_ASSERT(message.sizes() == r.into.sizes() && message.scalar_type() == r.into.scalar_type());
      r.into.copy_(message);
    }
    receives_.clear();
  }

 private:
  std::shared_ptr<MeetingPoint> meeting_;
  int64_t rank_;
  std::vector<Receive> receives_;
};

class ThreadGroup final : public Group {
 public:
  ThreadGroup(std::shared_ptr<MeetingPoint> meeting, int64_t rank) : meeting_(std::move(meeting)), rank_(rank) {}
  int64_t rank() const override { return rank_; }
  int64_t size() const override { return meeting_->size(); }
  void barrier() override { meeting_->arrive(); }

 protected:
  void do_all_reduce(at::Tensor& tensor, ReduceOp op) override {
    at::NoGradGuard off;
    tensor.copy_(exchange(tensor, [&] { return reduced([](const at::Tensor& t) { return t; }, op); }));
  }
  at::Tensor do_all_gather(const at::Tensor& tensor) override { return gathered(tensor); }
  at::Tensor do_all_gather_rows(const at::Tensor& tensor, std::span<const int64_t>) override { return gathered(tensor); }
  at::Tensor do_reduce_scatter_sum(const at::Tensor& tensor) override {
    const int64_t rows = tensor.size(0) / size();
    return scattered(tensor, rank_ * rows, rows);
  }
  at::Tensor do_reduce_scatter_sum_rows(const at::Tensor& tensor, std::span<const int64_t> rows) override {
    return scattered(tensor, starts(rows)[rank_], rows[rank_]);
  }
  void do_broadcast(at::Tensor& tensor, int64_t root) override {
    at::NoGradGuard off;
    tensor.copy_(exchange(tensor, [&] { return meeting_->posted(root).clone(); }));
  }
  at::Tensor do_all_to_all(const at::Tensor& tensor, std::span<const int64_t> sent, std::span<const int64_t> received) override {
    at::NoGradGuard off;
    meeting_->rows(rank_).assign(sent.begin(), sent.end());
    return exchange(tensor, [&] {
      std::vector<at::Tensor> parts;
      for (int64_t r = 0; r < size(); ++r) {
        const std::vector<int64_t>& theirs = meeting_->rows(r);
        PONTE_ASSERT(theirs[rank_] == received[r]);
        parts.push_back(meeting_->posted(r).narrow(0, starts(theirs)[rank_], received[r]));
      }
      return at::cat(parts);
    });
  }
  std::unique_ptr<PendingTransfers> do_transfer(std::span<const Transfer> transfers) override {
    std::vector<Receipts::Receive> receives;
    for (const Transfer& t : transfers) {
      if (t.direction == Transfer::Direction::send) meeting_->put(rank_, t.peer, t.tensor.detach().clone());
      else receives.push_back({t.peer, meeting_->expect(t.peer, rank_), t.tensor});
    }
    return std::make_unique<Receipts>(meeting_, rank_, std::move(receives));
  }

 private:
  template <class Read>
  at::Tensor exchange(const at::Tensor& mine, Read read) {
    meeting_->posted(rank_) = mine;
    meeting_->arrive();
    at::Tensor result = read();
    meeting_->arrive();  // nobody changes what it posted before everybody has read it
    meeting_->posted(rank_).reset();
    return result;
  }
  at::Tensor gathered(const at::Tensor& tensor) {
    at::NoGradGuard off;
    return exchange(tensor, [&] {
      std::vector<at::Tensor> parts;
      for (int64_t r = 0; r < size(); ++r) parts.push_back(meeting_->posted(r));
      return at::cat(parts);
    });
  }
  at::Tensor scattered(const at::Tensor& tensor, int64_t first, int64_t rows) {
    at::NoGradGuard off;
    return exchange(tensor, [&] { return reduced([&](const at::Tensor& t) { return t.narrow(0, first, rows); }, ReduceOp::sum); });
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

void run_ranks(const Mesh& mesh, const std::function<void(const Groups&)>& body) {
  std::map<std::vector<int64_t>, std::shared_ptr<MeetingPoint>> meetings;
  std::mutex mutex;
  std::exception_ptr first;
  const auto make = [&](int64_t rank, const std::vector<int64_t>& ranks) {
    std::lock_guard lock(mutex);
    std::shared_ptr<MeetingPoint>& meeting = meetings[ranks];
    if (!meeting) meeting = std::make_shared<MeetingPoint>(static_cast<int64_t>(ranks.size()));
    return std::make_shared<ThreadGroup>(meeting, std::find(ranks.begin(), ranks.end(), rank) - ranks.begin());
  };
  // Groups exist before the first rank runs, so that a failing rank can release everybody.
  std::vector<Groups> groups;
  for (int64_t r = 0; r < mesh.size(); ++r)
    groups.push_back(groups_of(mesh, r, [&](const std::string&, const std::vector<int64_t>& ranks) { return make(r, ranks); }));
  const auto run = [&](int64_t r) {
    try {
      body(groups[r]);
    } catch (...) {
      std::lock_guard lock(mutex);
      if (!first) first = std::current_exception();
      for (const auto& [ranks, meeting] : meetings) meeting->abandon();
    }
  };
  std::vector<std::thread> threads;
  for (int64_t r = 0; r < mesh.size(); ++r) threads.emplace_back(run, r);
  for (std::thread& thread : threads) thread.join();
  if (first) std::rethrow_exception(first);
}

void run_tensor_parallel(int64_t size, const std::function<void(const Groups&)>& body) {
  run_ranks(Mesh({.tensor = size}), body);
}

}  // namespace ponte
