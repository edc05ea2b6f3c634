// Loops over parts: every index once, as many threads as ATen has, one where a loop is already running.
#include "kernels/parallel.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <stdexcept>
#include <thread>

namespace ponte {
namespace {

struct Threads {
  explicit Threads(int n) : before(at::get_num_threads()) { at::set_num_threads(n); }
  ~Threads() { at::set_num_threads(before); }
  int before;
};

TEST(ParallelParts, EachThreadTakesOnePart) {
  const Threads two(2);
  std::array<std::thread::id, 2> runs_on;
  parallel_parts(0, 2, 1, [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) runs_on[i] = std::this_thread::get_id();
  });
  EXPECT_NE(runs_on[0], runs_on[1]);
}

TEST(ParallelParts, InsideAPartEverythingIsTheCallers) {
  const Threads two(2);
  parallel_parts(0, 2, 1, [&](int64_t, int64_t) {
    const auto outer = std::this_thread::get_id();
    parallel_parts(0, 8, 1, [&](int64_t, int64_t) { EXPECT_EQ(std::this_thread::get_id(), outer); });
  });
}

TEST(ParallelParts, EveryIndexOnce) {
  for (const int threads : {1, 2, 3}) {
    const Threads n(threads);
    std::array<std::atomic<int>, 1000> seen{};
    parallel_parts(0, 1000, 7, [&](int64_t from, int64_t to) {
      for (int64_t i = from; i < to; ++i) ++seen[i];
    });
    for (const auto& count : seen) EXPECT_EQ(count, 1);
    parallel_parts(5, 5, 1, [&](int64_t, int64_t) { ADD_FAILURE() << "nothing to do"; });
  }
}

TEST(ParallelParts, AnExceptionReachesTheCaller) {
  const Threads two(2);
  EXPECT_THROW(parallel_parts(0, 2, 1, [](int64_t from, int64_t) { if (from == 1) throw std::runtime_error("part"); }), std::runtime_error);
}

}  // namespace
}  // namespace ponte
