#include "corpus/ordered_pipeline.h"

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>

namespace ponte {
namespace {

using Pipeline = OrderedPipeline<int, int>;

Pipeline::Stages squares(int count, std::atomic<int>& next, int bad = -1) {
  return {.read = [count, &next](int& in) { return (in = next++) < count; },
          .make_worker =
              [bad] {
                return [bad](int& in) {
                  if (in == bad) throw std::runtime_error("bad " + std::to_string(in));
                  if (in % 7 == 0) std::this_thread::sleep_for(std::chrono::microseconds(200));  // so that order is not an accident
                  return in * in;
                };
              },
          .bytes = [](const int& in) { return static_cast<uint64_t>(in); }};
}

TEST(OrderedPipeline, KeepsTheReadersOrderForAnyNumberOfWorkers) {
  for (int64_t workers : {1, 2, 8}) {
    for (uint64_t budget : {uint64_t{0}, uint64_t{100}, uint64_t{1} << 40}) {
      std::atomic<int> next = 0;
      Pipeline pipeline(squares(300, next), workers, budget);
      int wanted = 0;
      for (int out; pipeline.next(out); ++wanted) ASSERT_EQ(out, wanted * wanted);
      EXPECT_EQ(wanted, 300);
    }
  }
}

TEST(OrderedPipeline, AnErrorSurfacesAtItsPlace) {
  std::atomic<int> next = 0;
  Pipeline pipeline(squares(300, next, 41), 4, 1 << 20);
  int out = 0;
  for (int i = 0; i < 41; ++i) ASSERT_TRUE(pipeline.next(out));
  EXPECT_THROW(pipeline.next(out), std::runtime_error);
}

TEST(OrderedPipeline, ReadsAheadOnlyWithinItsBudget) {
  std::atomic<int> next = 0;
  Pipeline pipeline(squares(100000, next), 2, 1000);
  int out = 0;
  for (int i = 0; i < 50; ++i) ASSERT_TRUE(pipeline.next(out));
  EXPECT_LE(next, 50 + 8 + 2);  // and it can be left in the middle
}

TEST(OrderedPipeline, AReaderThatFailsIsReported) {
  Pipeline pipeline({.read = [](int&) -> bool { throw std::runtime_error("disk"); },
                     .make_worker = [] { return [](int& in) { return in; }; },
                     .bytes = [](const int&) { return uint64_t{0}; }},
                    2, 10);
  int out;
  EXPECT_THROW(pipeline.next(out), std::runtime_error);
  EXPECT_FALSE(pipeline.next(out));
}

}  // namespace
}  // namespace ponte
