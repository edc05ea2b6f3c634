// Batches by position alone, whatever the threads; faults where they belong.
#include "data/batch_loader.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <atomic>

#include "base/errors.h"

namespace ponte {
namespace {

// Sample i is the numbers 10 i, 10 i + 1, ...; the last label of odd samples is masked.
struct Counting : SampleSource {
  int64_t samples = 64;
  mutable std::atomic<int64_t> reads{0};
  int64_t fails_at = -1;
  int64_t size() const override { return samples; }
  int64_t seq_length() const override { return 4; }
  void sample(int64_t index, std::span<int32_t> tokens, std::span<float> loss_mask) const override {
    ++reads;
    require(index != fails_at, "sample {} cannot be read", index);
    for (size_t t = 0; t < tokens.size(); ++t) tokens[t] = static_cast<int32_t>(10 * index) + static_cast<int32_t>(t);
    for (float& m : loss_mask) m = 1;
    if (index % 2) loss_mask.back() = 0;
  }
  std::string fingerprint() const override { return "counting"; }
};

TEST(BatchLoader, TokensLabelsAndMask) {
  Counting source;
  BatchLoader loader(source, {.micro_batch_size = 2, .micro_batches_per_step = 2, .first_sample = 4});
  const std::vector<MicroBatch> step = loader.next_step();
  ASSERT_EQ(step.size(), 2u);
  EXPECT_TRUE(at::equal(step[0].batch.tokens_BT, at::tensor(std::vector<int64_t>{40, 41, 42, 43, 50, 51, 52, 53}).view({2, 4})));
  EXPECT_TRUE(at::equal(step[0].batch.labels_BT, step[0].batch.tokens_BT + 1));
  EXPECT_TRUE(at::equal(step[0].batch.loss_mask_BT, at::tensor(std::vector<float>{1, 1, 1, 1, 1, 1, 1, 0}).view({2, 4})));
  EXPECT_FALSE(step[0].batch.position_ids_BT.defined());
  EXPECT_FALSE(step[0].batch.document_starts_BT.defined());
  EXPECT_EQ(step[0].valid_tokens, 7);
  EXPECT_EQ(step[1].sample_ids, (std::vector<int64_t>{6, 7}));
  EXPECT_EQ(loader.consumed_samples(), 8);
}

// Steps that grow, prepared ahead by two threads; and from the middle.
TEST(BatchLoader, AStepMayHaveMoreThanTheOneBefore) {
  Counting source;
  const auto sizes = [](int64_t consumed) { return consumed < 4 ? 2 : consumed < 8 ? 4 : 8; };
  const std::vector<std::vector<int64_t>> wanted[] = {{{1}}, {{3}}, {{5}, {7}}, {{9}, {11}, {13}, {15}}, {{17}, {19}, {21}, {23}}};
  for (const auto& [from, consumed] : {std::pair<size_t, int64_t>{0, 0}, {2, 4}, {3, 8}}) {
    BatchLoader loader(source, {.data_parallel_rank = 1, .data_parallel_size = 2, .first_sample = consumed, .samples_of_step = sizes, .workers = 2});
    for (size_t i = from; i < std::size(wanted); ++i) {
      std::vector<std::vector<int64_t>> found;
      for (const MicroBatch& m : loader.next_step()) found.push_back(m.sample_ids);
      EXPECT_EQ(found, wanted[i]) << i;
    }
    EXPECT_EQ(loader.consumed_samples(), 24);
  }
}

// Whatever the split of a step over ranks and micro-batches, the ranks together read Megatron's samples in Megatron's order.
TEST(BatchLoader, OrderOverRanks) {
  struct Case {
    int64_t micro, steps_per, ranks;
    std::vector<std::vector<int64_t>> rank0, last_rank;  // sample ids per micro-batch of the second step
  };
  const Case cases[] = {{8, 1, 1, {{8, 9, 10, 11, 12, 13, 14, 15}}, {{8, 9, 10, 11, 12, 13, 14, 15}}},
                        {2, 2, 2, {{8, 9}, {12, 13}}, {{10, 11}, {14, 15}}},
                        {1, 2, 4, {{8}, {12}}, {{11}, {15}}}};
  Counting source;
  for (const Case& c : cases)
    for (const bool last : {false, true}) {
      BatchLoader loader(source, {.micro_batch_size = c.micro, .micro_batches_per_step = c.steps_per, .data_parallel_rank = last ? c.ranks - 1 : 0,
                                  .data_parallel_size = c.ranks});
      loader.next_step();
      std::vector<std::vector<int64_t>> found;
      for (const MicroBatch& m : loader.next_step()) found.push_back(m.sample_ids);
      EXPECT_EQ(found, last ? c.last_rank : c.rank0);
    }
}

TEST(BatchLoader, StartedInTheMiddleContinuesExactly) {
  Counting source;
  BatchLoader whole(source, {.micro_batch_size = 2, .micro_batches_per_step = 2});
  for (int i = 0; i < 3; ++i) whole.next_step();
  BatchLoader resumed(source, {.micro_batch_size = 2, .micro_batches_per_step = 2, .first_sample = whole.consumed_samples()});
  EXPECT_EQ(whole.next_step()[0].sample_ids, resumed.next_step()[0].sample_ids);
}

// The stream is a function of the samples consumed: at any number of ranks and threads each step holds the same samples, in the same order when the ranks'
// micro-batches are laid side by side, and a run stopped anywhere goes on exactly with another number of ranks.
TEST(BatchLoader, TheStreamDoesNotDependOnRanksAndThreads) {
  constexpr int64_t kGlobalBatch = 8, kSteps = 6;
  Counting source;
  const auto step_over_ranks = [&](int64_t ranks, int64_t micro, int64_t workers, int64_t first_sample, int64_t steps) {
    std::vector<std::vector<int64_t>> out(static_cast<size_t>(steps));
    std::vector<std::unique_ptr<BatchLoader>> loaders;
    const int64_t per_step = kGlobalBatch / (ranks * micro);
    for (int64_t r = 0; r < ranks; ++r)
      loaders.push_back(std::make_unique<BatchLoader>(
          source, BatchLoader::Settings{.micro_batch_size = micro, .micro_batches_per_step = per_step, .data_parallel_rank = r,
                                        .data_parallel_size = ranks, .first_sample = first_sample, .steps_ahead = 3, .workers = workers}));
    for (auto& ids : out) {
      std::vector<std::vector<MicroBatch>> of_rank;
      for (auto& loader : loaders) of_rank.push_back(loader->next_step());
      for (int64_t m = 0; m < per_step; ++m)
        for (const auto& step : of_rank) {
          const MicroBatch& micro_batch = step[static_cast<size_t>(m)];
          ids.insert(ids.end(), micro_batch.sample_ids.begin(), micro_batch.sample_ids.end());
          for (size_t b = 0; b < micro_batch.sample_ids.size(); ++b)
            EXPECT_EQ(micro_batch.batch.tokens_BT[static_cast<int64_t>(b)][0].item<int64_t>(), 10 * micro_batch.sample_ids[b]);
        }
    }
    for (auto& loader : loaders) EXPECT_EQ(loader->consumed_samples(), first_sample + steps * kGlobalBatch);
    return out;
  };
  const auto one = step_over_ranks(1, 8, 1, 0, kSteps);
  for (int64_t s = 0; s < kSteps; ++s)
    for (int64_t i = 0; i < kGlobalBatch; ++i) ASSERT_EQ(one[static_cast<size_t>(s)][static_cast<size_t>(i)], s * kGlobalBatch + i);
  for (const int64_t ranks : {1, 2, 4, 8})
    for (const int64_t micro : {1, 2, 4})
      for (const int64_t workers : {1, 3}) {
        if (ranks * micro > kGlobalBatch) continue;
        EXPECT_EQ(step_over_ranks(ranks, micro, workers, 0, kSteps), one) << ranks << " ranks, micro-batch " << micro;
        const auto rest = step_over_ranks(ranks, micro, workers, 3 * kGlobalBatch, kSteps - 3);  // stopped after three steps at another size
        EXPECT_TRUE(std::equal(rest.begin(), rest.end(), one.begin() + 3)) << ranks << " ranks, micro-batch " << micro;
      }
}

// Positions after a sample's text are padding for the model's routers; where every sample is full there is no such tensor.
TEST(BatchLoader, PaddingIsMarked) {
  struct Short : Counting {
    int64_t text_tokens(int64_t index) const override { return index % 2 ? 3 : 5; }
  } source;
  BatchLoader loader(source, {.micro_batch_size = 2});
  const Batch batch = loader.next_step()[0].batch;
  EXPECT_TRUE(at::equal(batch.padding_BT, at::tensor(std::vector<int64_t>{0, 0, 0, 0, 0, 0, 0, 1}).view({2, 4}).to(at::kBool)));
  Counting full;
  EXPECT_FALSE(BatchLoader(full, {.micro_batch_size = 2}).next_step()[0].batch.padding_BT.defined());
}

TEST(BatchLoader, WaitingIsMeasured) {
  struct Slow : Counting {
    void sample(int64_t index, std::span<int32_t> tokens, std::span<float> loss_mask) const override {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      Counting::sample(index, tokens, loss_mask);
    }
  } source;
  BatchLoader loader(source, {.micro_batch_size = 1});
  loader.next_step();
  EXPECT_GE(loader.last_wait_seconds(), 0.02);  // the first is never ready beforehand
}

TEST(BatchLoader, EndOfDataSaysSo) {
  Counting source;
  source.samples = 10;
  BatchLoader loader(source, {.micro_batch_size = 4});
  loader.next_step();
  loader.next_step();
  try {
    loader.next_step();
    FAIL() << "read past the end";
  } catch (const UserError& e) {
    EXPECT_STREQ(e.what(), "the data set ends at sample 10: a step from sample 8 wants 4 more");
  }
}

TEST(BatchLoader, ErrorsOfTheThreadReachTheCallerInOrder) {
  Counting source;
  source.fails_at = 5;
  BatchLoader loader(source, {.micro_batch_size = 4});
  EXPECT_EQ(loader.next_step()[0].sample_ids[3], 3);  // made before the failure
  for (int i = 0; i < 2; ++i) {
    try {
      loader.next_step();
      FAIL() << "no error";
    } catch (const UserError& e) {
      EXPECT_STREQ(e.what(), "sample 5 cannot be read");
    }
  }
}

TEST(BatchLoader, ReadsAFewStepsAheadOnly) {
  Counting source;
  {
    BatchLoader loader(source, {.micro_batch_size = 2, .steps_ahead = 2});
    loader.next_step();
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    EXPECT_LE(source.reads, 2 * 3);  // one handed out, two ready
  }  // and an early end neither hangs nor crashes
}

TEST(BatchLoader, DocumentBoundaries) {
  struct Documents : Counting {
    void sample(int64_t, std::span<int32_t> tokens, std::span<float> loss_mask) const override {
      const int32_t ids[] = {7, 0, 8, 9, 0};
      std::copy(std::begin(ids), std::end(ids), tokens.begin());
      std::fill(loss_mask.begin(), loss_mask.end(), 1.0f);
    }
  } source;
  BatchLoader loader(source, {.reset_position_ids = true, .reset_attention_mask = true, .eod_id = 0});
  const Batch batch = loader.next_step()[0].batch;
  EXPECT_TRUE(at::equal(batch.position_ids_BT, at::tensor(std::vector<int64_t>{0, 1, 0, 1}).view({1, 4})));
  EXPECT_TRUE(at::equal(batch.document_starts_BT, at::tensor(std::vector<int64_t>{0, 0, 2, 2}).view({1, 4})));
  EXPECT_THROW(BatchLoader(source, {.reset_position_ids = true}), UserError);
}

}  // namespace
}  // namespace ponte
