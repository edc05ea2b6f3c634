// An answer that may never come. c10d's store waits without end for a peer that keeps its connection and is silent (a stopped process, a machine that hangs,
// another program behind the port), so whoever must not wait so long asks on a thread of its own.
#pragma once
#include <chrono>
#include <functional>
#include <future>
#include <optional>
#include <thread>

namespace ponte {

// What `ask` returns or throws within `patience`; nullopt: nothing yet. Then its thread goes on, to the end of the process perhaps: `ask` has to own what
// it uses.
template <class Answer>
std::optional<Answer> answer_within(std::chrono::milliseconds patience, std::function<Answer()> ask) {
  std::packaged_task<Answer()> task(std::move(ask));
  std::future<Answer> answer = task.get_future();
  std::thread(std::move(task)).detach();
  if (answer.wait_for(patience) != std::future_status::ready) return std::nullopt;
  return answer.get();
}

}  // namespace ponte
