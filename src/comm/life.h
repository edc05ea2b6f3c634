// Signs of life. Every rank writes, a few times per time-out, a beat, its phase and the collective it waits in to the run's store; whoever loses a
// collective reads there which rank is gone or has not come, so that a stopped run names its cause. The first finding stands for all ranks.
#pragma once
#include <torch/csrc/distributed/c10d/Store.hpp>

#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <thread>

namespace ponte {

class Life {
 public:
  using Milliseconds = std::chrono::milliseconds;

  // `store` is used by this object alone (a clone).
  Life(c10::intrusive_ptr<c10d::Store> store, int64_t rank, int64_t size, Milliseconds timeout);
  ~Life();
  Life(const Life&) = delete;

  void phase(std::string name);
  // Marks this rank as waiting in a collective for as long as it lives.
  class Waiting {
   public:
    Waiting(Life& life, std::string collective);
    ~Waiting();
    Waiting(const Waiting&) = delete;

   private:
    Life& life_;
  };
  // Who kept this rank waiting in `collective`, in a sentence; takes a few beats, and a few more where the store is silent. `members`: the global ranks that
  // take part.
  std::string why_lost(std::string_view collective, std::span<const int64_t> members);
  // This rank is about to end with an error of its own: the others shall say so.
  void failed(std::string_view message);
  // What a launcher leaves in the store when a rank has ended badly: "rank 2 was killed by signal 9, ...". Returns what all ranks will say.
  static std::string record_end(c10d::Store& store, int64_t rank, std::string_view how);

 private:
  struct Board;
  const Milliseconds interval_, patience_;
  const std::shared_ptr<Board> board_;
  std::atomic<bool> silent_ = false;  // the store has not answered in time
  std::future<void> ended_;  // of the thread that writes the beats
  std::thread thread_;
};

}  // namespace ponte
