// Ramps against megatron-core 0.16's RampupBatchsizeNumMicroBatchesCalculator, evaluated.
#include "config/batch_sizes.h"

#include <gtest/gtest.h>

namespace ponte {
namespace {

std::vector<int64_t> steps(std::vector<int64_t> ramp, int64_t last, int64_t share, bool decrease, int count) {
  TrainConfig config;
  config.rampup_batch_size = std::move(ramp);
  config.global_batch_size = last;
  config.decrease_batch_size_if_needed = decrease;
  const BatchSizes sizes(config, share);
  std::vector<int64_t> out;
  for (int64_t consumed = 0; std::ssize(out) < count; consumed += out.back()) out.push_back(sizes.at(consumed));
  return out;
}

TEST(BatchSizes, GrowAsMegatrons) {
  EXPECT_EQ(steps({2, 2, 12}, 8, 1, false, 10), (std::vector<int64_t>{2, 2, 4, 6, 8, 8, 8, 8, 8, 8}));
  EXPECT_EQ(steps({2, 2, 12}, 8, 2, false, 10), (std::vector<int64_t>{2, 2, 4, 6, 8, 8, 8, 8, 8, 8}));
  EXPECT_EQ(steps({1, 1, 7}, 4, 1, false, 9), (std::vector<int64_t>{1, 1, 1, 2, 3, 4, 4, 4, 4}));
  EXPECT_EQ(steps({3, 5, 29}, 23, 1, false, 9), (std::vector<int64_t>{3, 3, 3, 8, 13, 23, 23, 23, 23}));
  EXPECT_EQ(steps({3, 5, 29}, 23, 2, true, 9), (std::vector<int64_t>{2, 2, 2, 2, 8, 12, 18, 22, 22}));
  EXPECT_EQ(steps({4, 4, 1000}, 16, 4, false, 8), (std::vector<int64_t>{4, 4, 4, 4, 4, 4, 4, 4}));
  EXPECT_EQ(steps({2, 3, 100}, 11, 1, false, 24), (std::vector<int64_t>{2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 5, 5, 5, 5, 5, 5, 5}));
}

TEST(BatchSizes, WithoutARampAreAllTheSame) { EXPECT_EQ(steps({}, 6, 2, false, 3), (std::vector<int64_t>{6, 6, 6})); }

TEST(BatchSizes, ListsEverySize) {
  TrainConfig config;
  config.global_batch_size = 8;
  EXPECT_EQ(BatchSizes::all(config), (std::vector<int64_t>{8}));
  config.rampup_batch_size = {2, 3, 10};
  EXPECT_EQ(BatchSizes::all(config), (std::vector<int64_t>{2, 5, 8}));
}

}  // namespace
}  // namespace ponte
