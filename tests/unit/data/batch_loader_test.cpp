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
  EXPECT_THROW(loader.next_step(), UserError);
}

TEST(BatchLoader, ReadsAFewStepsAheadOnly) {
  Counting source;
  {
    BatchLoader loader(source, {.micro_batch_size = 2, .steps_ahead = 2});
    loader.next_step();
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    EXPECT_LE(source.reads, 2 * 4);  // one handed out, two ready, one waiting for room
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
