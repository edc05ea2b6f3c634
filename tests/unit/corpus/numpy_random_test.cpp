// Expected values printed by numpy itself.
#include "corpus/numpy_random.h"

#include <gtest/gtest.h>

#include <numeric>

namespace ponte {
namespace {

TEST(NumpyRandom, ShufflesLikeRandomState) {
  RandomState random(1234);
  std::vector<int32_t> ten(10);
  std::iota(ten.begin(), ten.end(), 0);
  random.shuffle(std::span(ten));
  EXPECT_EQ(ten, (std::vector<int32_t>{7, 2, 9, 1, 0, 8, 4, 5, 6, 3}));
  std::vector<uint32_t> many(100000);
  std::iota(many.begin(), many.end(), 0);
  random.shuffle(std::span(many));
  EXPECT_EQ(std::vector<uint32_t>(many.begin(), many.begin() + 5), (std::vector<uint32_t>{42845, 37986, 15679, 51884, 72274}));
  EXPECT_EQ(std::vector<uint32_t>(many.end() - 3, many.end()), (std::vector<uint32_t>{8222, 23706, 9449}));
  std::vector<int32_t> none;
  random.shuffle(std::span(none));
}

TEST(NumpyRandom, DrawsIntegersLikeDefaultRng) {
  const auto values = default_rng_integers(0, 1, 4096, 100000);
  EXPECT_EQ(std::vector<int32_t>(values.begin(), values.begin() + 8), (std::vector<int32_t>{3484, 2609, 2094, 1105, 1261, 168, 309, 68}));
  EXPECT_EQ(std::vector<int32_t>(values.end() - 3, values.end()), (std::vector<int32_t>{61, 100, 769}));
  EXPECT_EQ(std::accumulate(values.begin(), values.end(), int64_t{0}), 204637097);
}

TEST(NumpyRandom, SumsPairwise) {
  std::vector<double> values;
  for (int i = 0; i < 300; ++i) values.push_back(0.1 * i + 1.0 / 3);
  const std::pair<size_t, double> cases[] = {{3, 1.2999999999999998},  {7, 4.433333333333334},   {8, 5.466666666666667},
                                             {13, 12.133333333333333}, {129, 868.5999999999999}, {300, 4585.0}};
  for (const auto& [count, sum] : cases) EXPECT_EQ(numpy_sum(std::span(values).first(count)), sum) << count;
}

}  // namespace
}  // namespace ponte
