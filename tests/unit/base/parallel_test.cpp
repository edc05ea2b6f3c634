// parallel_for: every index once, exceptions come back, and nothing races (run under the tsan preset).
#include "base/parallel.h"

#include <gtest/gtest.h>

#include <atomic>
#include <numeric>
#include <vector>

#include "base/errors.h"
#include "base/progress.h"

namespace ponte {
namespace {

TEST(ParallelFor, EveryIndexOnce) {
  for (const int64_t threads : {1, 2, 3, 8}) {
    std::vector<int> count(1000, 0);
    parallel_for(1000, threads, [&](int64_t i) { ++count[static_cast<size_t>(i)]; });
    EXPECT_EQ(std::accumulate(count.begin(), count.end(), 0), 1000);
    EXPECT_EQ(*std::max_element(count.begin(), count.end()), 1);
  }
}

TEST(ParallelFor, TheFirstExceptionComesBack) {
  std::atomic<int64_t> calls{0};
  EXPECT_THROW(parallel_for(100000, 4, [&](int64_t i) { if (++calls == 10) fail("item {}", i); }), UserError);
  EXPECT_LT(calls, 100000);
}

TEST(Progress, AdvancesFromSeveralThreads) {
  Progress progress("work", 1000);
  parallel_for(1000, 4, [&](int64_t) { progress.advance(1); });
  progress.finish();
}

TEST(Progress, WhatWasDoneBeforeIsNoPartOfTheRate) {
  const Pace resumed{.done = 60, .before = 40, .total = 160, .seconds = 10};
  EXPECT_EQ(resumed.share(), 0.375);
  EXPECT_EQ(resumed.rate(), 2.0);
  EXPECT_EQ(resumed.seconds_left(), 50.0);
  const Pace started{.done = 40, .before = 40, .total = 160, .seconds = 10}, unknown{.done = 60, .total = 0, .seconds = 10};
  EXPECT_EQ(started.rate(), 0.0);
  EXPECT_FALSE(started.seconds_left());
  EXPECT_EQ(unknown.share(), 0.0);
  EXPECT_FALSE(unknown.seconds_left());
}

}  // namespace
}  // namespace ponte
