// Stages and schedules of a pipeline: layer splits against Megatron's rules, schedules in a simulator over many sizes.
#include <gtest/gtest.h>

#include <algorithm>

#include "base/errors.h"
#include "layout/pipeline_schedule.h"
#include "layout/pipeline_stages.h"

namespace ponte {
namespace {

struct SplitCase {
  const char* name;
  int64_t layers, ranks, chunks, first, last;
  bool embedding, loss;
  const char* layout;
  std::vector<int64_t> wanted;  // layers per stage; empty: refused
  int64_t predictions = 0;
};

void PrintTo(const SplitCase& c, std::ostream* out) { *out << c.name; }

ModelConfig config_of(const SplitCase& c) {
  ModelConfig out;
  out.num_layers = c.layers;
  out.pipeline_model_parallel_size = c.ranks;
  out.virtual_pipeline_model_parallel_size = c.chunks;
  out.num_layers_in_first_pipeline_stage = c.first;
  out.num_layers_in_last_pipeline_stage = c.last;
  out.account_for_embedding_in_pipeline_split = c.embedding;
  out.account_for_loss_in_pipeline_split = c.loss;
  out.pipeline_model_parallel_layout = c.layout;
  out.mtp_num_layers = c.predictions;
  return out;
}

class PipelineSplits : public testing::TestWithParam<SplitCase> {};

TEST_P(PipelineSplits, Layers) {
  const SplitCase& c = GetParam();
  if (c.wanted.empty()) {
    EXPECT_THROW(pipeline_split(config_of(c)), UserError);
    return;
  }
  const PipelineSplit split = pipeline_split(config_of(c));
  EXPECT_EQ(split.ranks, c.ranks);
  EXPECT_EQ(split.chunks, static_cast<int64_t>(c.wanted.size()) / c.ranks);
  ASSERT_EQ(split.stages.size(), c.wanted.size());
  int64_t next = 0;
  for (size_t s = 0; s < c.wanted.size(); ++s) {
    EXPECT_EQ(split.stages[s].first_layer, next);
    EXPECT_EQ(split.stages[s].layers, c.wanted[s]);
    EXPECT_EQ(split.stages[s].embedding, s == 0);
    EXPECT_EQ(split.stages[s].loss, s + 1 == c.wanted.size());
    EXPECT_EQ(split.stages[s].prediction_layers, split.stages[s].loss ? c.predictions : 0);
    next += c.wanted[s];
  }
  const auto own = split.of_rank(c.ranks - 1);
  EXPECT_EQ(own.size(), static_cast<size_t>(split.chunks));
  EXPECT_TRUE(own.back().loss);
}

INSTANTIATE_TEST_SUITE_P(
    Table, PipelineSplits,
    testing::Values(SplitCase{"alone", 5, 1, 0, 0, 0, false, false, "", {5}}, SplitCase{"even", 8, 4, 0, 0, 0, false, false, "", {2, 2, 2, 2}},
                    SplitCase{"interleaved", 8, 2, 2, 0, 0, false, false, "", {2, 2, 2, 2}},
                    SplitCase{"94 over 8", 94, 8, 0, 0, 0, true, true, "", {11, 12, 12, 12, 12, 12, 12, 11}},
                    SplitCase{"94 over 8, first and last", 94, 8, 0, 11, 11, false, false, "", {11, 12, 12, 12, 12, 12, 12, 11}},
                    SplitCase{"94 over 8 in two chunks", 94, 8, 2, 0, 0, true, true, "", {5, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 5}},
                    SplitCase{"first only", 7, 3, 0, 1, 0, false, false, "", {1, 3, 3}},
                    SplitCase{"last only", 7, 3, 0, 0, 3, false, false, "", {2, 2, 3}},
                    SplitCase{"uneven in chunks", 8, 2, 2, 2, 6, false, false, "", {1, 3, 1, 3}},
                    SplitCase{"embedding counted", 5, 3, 0, 0, 0, true, false, "", {1, 2, 2}},
                    SplitCase{"loss stage of its own", 3, 4, 0, 0, 0, false, true, "", {1, 1, 1, 0}},
                    SplitCase{"layout", 5, 2, 0, 0, 0, false, false, "Ett|tttL", {2, 3}},
                    SplitCase{"layout in chunks", 6, 2, 2, 0, 0, false, false, "E,t*3|(t|)*2tL", {3, 1, 1, 1}},
                    SplitCase{"layout with an empty stage", 4, 2, 2, 0, 0, false, false, "E|tt||ttL", {0, 2, 0, 2}},
                    SplitCase{"does not divide", 7, 2, 0, 0, 0, false, false, "", {}},
                    SplitCase{"chunks do not divide", 6, 2, 2, 0, 0, false, false, "", {}},
                    SplitCase{"nothing left", 4, 2, 0, 1, 1, false, false, "", {}}, SplitCase{"too many", 4, 3, 0, 3, 3, false, false, "", {}},
                    SplitCase{"chunks alone", 4, 1, 2, 0, 0, false, false, "", {}}, SplitCase{"both ways", 8, 2, 0, 4, 0, true, false, "", {}},
                    SplitCase{"layout: layers", 5, 2, 0, 0, 0, false, false, "Ett|ttL", {}},
                    SplitCase{"layout: stages", 5, 2, 0, 0, 0, false, false, "Ett|tt|tL", {}},
                    SplitCase{"layout: loss early", 4, 2, 0, 0, 0, false, false, "EttL|tt", {}},
                    SplitCase{"layout: letter", 4, 2, 0, 0, 0, false, false, "Ett|ttXL", {}},
                    SplitCase{"layout: open", 4, 2, 0, 0, 0, false, false, "E(tt|ttL", {}},
                    SplitCase{"layout: count", 4, 2, 0, 0, 0, false, false, "Et*|ttL", {}},
                    SplitCase{"layout: nested", 4, 2, 0, 0, 0, false, false, "E((tt)*2|)L", {}},
                    SplitCase{"layout: bomb", 4, 2, 0, 0, 0, false, false, "E(((t*99999)*99999)*99999|L", {}},
                    SplitCase{"layout: predictions", 4, 2, 0, 0, 0, false, false, "Ett|ttmL", {}},
                    SplitCase{"layout with predictions", 4, 2, 0, 0, 0, false, false, "Ett|ttmL", {2, 2}, 1},
                    SplitCase{"layout: predictions away from the loss", 4, 4, 0, 0, 0, false, false, "Ett|tt|m|L", {}, 1}));

TEST(PipelineLayout, RepetitionsAsMegatrons) {
  EXPECT_EQ(parse_pipeline_layout("Ettt|(tt|)*3,m|L"), (std::vector<std::string>{"Ettt", "tt", "tt", "tt", "m", "L"}));
  EXPECT_EQ(parse_pipeline_layout("Et*4|(tttt|)*2tmL"), (std::vector<std::string>{"Etttt", "tttt", "tttt", "tmL"}));
  EXPECT_EQ(parse_pipeline_layout("(|t*2)*2"), (std::vector<std::string>{"", "tt", "tt"}));
}

TEST(PipelineSchedule, OneForwardOneBackward) {
  using enum Pass;
  EXPECT_EQ(pipeline_schedule({.ranks = 3, .micro_batches = 4}, 1), (std::vector<PipelineAction>{{forward, 0, 0},
                                                                                                 {forward, 1, 0},
                                                                                                 {backward, 0, 0},
                                                                                                 {forward, 2, 0},
                                                                                                 {backward, 1, 0},
                                                                                                 {forward, 3, 0},
                                                                                                 {backward, 2, 0},
                                                                                                 {backward, 3, 0}}));
  EXPECT_EQ(pipeline_schedule({.ranks = 2, .chunks = 2, .micro_batches = 2}, 1), (std::vector<PipelineAction>{{forward, 0, 0},
                                                                                                              {forward, 1, 0},
                                                                                                              {forward, 0, 1},
                                                                                                              {backward, 0, 1},
                                                                                                              {forward, 1, 1},
                                                                                                              {backward, 1, 1},
                                                                                                              {backward, 0, 0},
                                                                                                              {backward, 1, 0}}));
}

// No deadlock, every pass once, as many forward passes held as the rank's place in the pipeline says, and the bubble of the closed form.
TEST(PipelineSchedule, SimulatedOverManySizes) {
  for (int64_t ranks = 1; ranks <= 8; ++ranks)
    for (int64_t chunks = 1; chunks <= (ranks == 1 ? 1 : 4); ++chunks)
      for (int64_t micro_batches = 1; micro_batches <= 33; ++micro_batches) {
        if (chunks > 1 && micro_batches % ranks != 0) continue;
        const PipelineSizes sizes{ranks, chunks, micro_batches};
        const PipelineSimulation run = simulate(sizes);
        ASSERT_TRUE(run.finished) << ranks << " " << chunks << " " << micro_batches;
        for (int64_t r = 0; r < ranks; ++r) {
          const auto list = pipeline_schedule(sizes, r);
          EXPECT_EQ(list.size(), static_cast<size_t>(2 * chunks * micro_batches));
          const int64_t ahead = chunks == 1 ? ranks - r : 2 * (ranks - r - 1) + (chunks - 1) * ranks + 1;
          EXPECT_EQ(run.held[r], std::min(ahead, chunks * micro_batches));
        }
        // Fill and drain: (ranks - 1) forward and backward passes of one chunk.
        EXPECT_DOUBLE_EQ(run.time, 3.0 * static_cast<double>(micro_batches * chunks + ranks - 1)) << ranks << " " << chunks << " " << micro_batches;
        EXPECT_NEAR(run.bubble, static_cast<double>(ranks - 1) / static_cast<double>(micro_batches * chunks + ranks - 1), 1e-12);
      }
}

// What one rank sends is what another expects, and stages of one rank never write to themselves.
TEST(PipelineSchedule, MessagesPair) {
  const PipelineSizes sizes{3, 2, 6};
  std::vector<std::tuple<int64_t, int64_t, int64_t, int64_t, bool>> sent, expected;  // from, to, micro-batch, chunk, forward
  for (int64_t r = 0; r < sizes.ranks; ++r)
    for (const PipelineAction& a : pipeline_schedule(sizes, r)) {
      PipelineMessage m;
      if (message_out_of(sizes, r, a, m)) {
        EXPECT_NE(m.peer, r);
        sent.push_back({r, m.peer, m.micro_batch, m.chunk, m.pass == Pass::forward});
      }
      if (message_into(sizes, r, a, m)) expected.push_back({m.peer, r, m.micro_batch, m.chunk, m.pass == Pass::forward});
    }
  std::sort(sent.begin(), sent.end());
  std::sort(expected.begin(), expected.end());
  EXPECT_EQ(sent, expected);
  EXPECT_EQ(sent.size(), static_cast<size_t>(2 * 5 * 6));
}

TEST(PipelineSchedule, WhatCannotBeScheduledIsRefused) {
  EXPECT_THROW(pipeline_schedule({1, 2, 4}, 0), UserError);
  EXPECT_THROW(pipeline_schedule({2, 2, 3}, 0), UserError);
  EXPECT_THROW(pipeline_schedule({2, 1, 0}, 0), UserError);
}

}  // namespace
}  // namespace ponte
