// The sampler: what each filter keeps, ties, that draws follow the probabilities and depend on nothing else.
#include "generate/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>

#include "base/errors.h"

namespace ponte {
namespace {

std::vector<float> log_of(std::vector<double> probabilities) {
  std::vector<float> out;
  for (double p : probabilities) out.push_back(static_cast<float>(std::log(p)));
  return out;
}

TEST(Sampler, FiltersKeepWhatTransformersKeeps) {
  const std::vector<float> logits = log_of({0.05, 0.4, 0.1, 0.4, 0.03, 0.02});
  struct Case {
    const char* name;
    SamplingOptions options;
    std::vector<int32_t> kept;
  };
  const Case cases[] = {
      {"all, by id", {.temperature = 1}, {0, 1, 2, 3, 4, 5}},
      {"top_k", {.temperature = 1, .top_k = 3}, {1, 2, 3}},
      {"top_k keeps ties of the last", {.temperature = 1, .top_k = 1}, {1, 3}},
      {"top_k above the vocabulary", {.temperature = 1, .top_k = 100}, {0, 1, 2, 3, 4, 5}},
      {"top_p keeps the token that crosses the sum", {.temperature = 1, .top_p = 0.5}, {1, 3}},
      {"top_p always keeps one", {.temperature = 1, .top_p = 1e-9}, {1}},
      {"top_p after top_k, over what top_k left", {.temperature = 1, .top_k = 3, .top_p = 0.92}, {1, 2, 3}},
      {"min_p", {.temperature = 1, .min_p = 0.2}, {1, 2, 3}},
      {"a high temperature flattens before top_p", {.temperature = 100, .top_p = 0.6}, {0, 1, 2, 3}},
      {"min_p of 1 keeps the likeliest", {.temperature = 1, .min_p = 1.0}, {1, 3}},
  };
  for (const Case& c : cases) {
    std::vector<int32_t> ids;
    double sum = 0;
    for (const Candidate& k : candidates(logits, c.options)) {
      ids.push_back(k.id);
      sum += k.probability;
    }
    EXPECT_EQ(ids, c.kept) << c.name;
    EXPECT_NEAR(sum, 1.0, 1e-12) << c.name;
  }
}

TEST(Sampler, TopPOverManyTokensCrossesBlocks) {
  std::vector<float> logits(10000, 0.0f);  // equal: half of them make up one half
  for (const double p : {0.01, 0.5, 0.9}) {
    const auto kept = candidates(logits, {.temperature = 1, .top_p = p});
    EXPECT_NEAR(static_cast<double>(kept.size()), p * 10000, 1.0) << p;
    EXPECT_EQ(kept.front().id, 0);
    EXPECT_EQ(kept.back().id, static_cast<int32_t>(kept.size()) - 1);
  }
}

TEST(Sampler, GreedyTakesTheFirstLargestAndPassesOverNan) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(most_likely(std::vector<float>{1, 3, 3, 2}), 1);
  EXPECT_EQ(most_likely(std::vector<float>{nan, -5, nan, -4}), 3);
  EXPECT_THROW(most_likely(std::vector<float>{nan, nan}), UserError);
  EXPECT_EQ(next_token(std::vector<float>{0, 9, 1}, {}, 0, 0), 1);
}

TEST(Sampler, NoUsableLogitIsAnErrorAndTinyTemperaturesAreGreedy) {
  const std::vector<float> none(4, std::numeric_limits<float>::quiet_NaN()), some = {1, -3, 500, 2};
  for (const double temperature : {0.0, 1.0}) EXPECT_THROW(next_token(none, {.temperature = temperature}, 0, 0), UserError) << temperature;
  for (const double temperature : {1e-6, 1e-37, 1e-300})
    for (uint64_t step = 0; step < 20; ++step) EXPECT_EQ(next_token(some, {.temperature = temperature}, 0, step), 2) << temperature;
}

TEST(Sampler, DrawsFollowTheProbabilities) {
  const std::vector<double> p = {0.5, 0.25, 0.15, 0.1};
  const std::vector<float> logits = log_of(p);
  const int n = 200000;
  std::map<int32_t, int> count;
  for (int i = 0; i < n; ++i) ++count[next_token(logits, {.temperature = 1, .seed = 7}, 3, static_cast<uint64_t>(i))];
  double chi_square = 0;
  for (size_t i = 0; i < p.size(); ++i) chi_square += std::pow(count[static_cast<int32_t>(i)] - n * p[i], 2) / (n * p[i]);
  EXPECT_LT(chi_square, 16.27);  // 3 degrees of freedom, one in a thousand; the draws are fixed
}

TEST(Sampler, ADrawDependsOnSeedSequenceAndStep) {
  const std::vector<float> logits(1000, 0.0f);
  const auto draw = [&](uint64_t seed, uint64_t sequence, uint64_t step) { return next_token(logits, {.temperature = 1, .seed = seed}, sequence, step); };
  EXPECT_EQ(draw(1, 2, 3), draw(1, 2, 3));
  EXPECT_NE(draw(1, 2, 3), draw(2, 2, 3));
  EXPECT_NE(draw(1, 2, 3), draw(1, 3, 3));
  EXPECT_NE(draw(1, 2, 3), draw(1, 2, 4));
}

TEST(Sampler, OptionsOutOfRangeAreNamed) {
  const std::pair<SamplingOptions, const char*> cases[] = {
      {{.temperature = -1}, "temperature"}, {{.temperature = NAN}, "temperature"}, {{.top_k = -1}, "top_k"},
      {{.top_p = 0}, "top_p"},              {{.top_p = 1.5}, "top_p"},             {{.min_p = -0.1}, "min_p"},
  };
  for (const auto& [options, field] : cases) {
    try {
      check_sampling(options);
      ADD_FAILURE() << field;
    } catch (const UserError& error) {
      EXPECT_NE(std::string(error.what()).find(field), std::string::npos);
    }
  }
}

}  // namespace
}  // namespace ponte
