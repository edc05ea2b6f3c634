// What each tensor-parallel rank holds of a parameter.
#include "layout/placement.h"

#include <gtest/gtest.h>

#include "base/errors.h"
#include "element_map.h"
#include "families/registry.h"
#include "layout/shares.h"

namespace ponte::testing {
namespace {

ModelConfig tiny(int64_t groups, int64_t per_group) {
  ModelConfig c;
  c.hf_architecture = "Qwen3ForCausalLM";
  c.num_layers = 1;
  c.hidden_size = 8;
  c.ffn_hidden_size = 48;
  c.num_query_groups = groups;
  c.num_attention_heads = groups * per_group;
  c.kv_channels = 3;
  c.vocab_size = 13;
  c.qk_layernorm = true;
  c.add_qkv_bias = true;
  return c;
}

// What a rank holds of a parameter, through the slice and the boxes alone.
Elements local_values(const Rule& rule, const Slice& slice, const std::vector<Elements>& hf) {
  Elements out(numel(slice.shape), 0);
  for (size_t s = 0; s < rule.segments.size(); ++s)
    for (const Window& window : slice_windows(rule, slice, s)) {
      std::vector<Copy> copies;
      for (const Box& box : rule.segments[s].boxes) append_copies(box, window, copies);
      for (const Copy& copy : copies) apply(copy, hf[copy.source], out);
    }
  return out;
}

TEST(Placement, EveryRowIsOwnedOnceOrSharedByItsSharers) {
  for (auto [groups, per_group, size] : {std::tuple{4, 2, 1}, {4, 2, 2}, {4, 2, 4}, {2, 4, 4}, {2, 4, 8}, {1, 6, 3}, {1, 12, 12}}) {
    const RuleTable table = rule_table(tiny(groups, per_group));
    for (const Rule& rule : table.rules)
      for (size_t s = 0; s < rule.segments.size(); ++s) {
        const Segment& segment = rule.segments[s];
        const int64_t dim = std::max<int64_t>(segment.shard_dim, 0);
        std::vector<int64_t> holders(segment.shape[dim], 0), promised(segment.shape[dim], 0);
        for (int64_t rank = 0; rank < size; ++rank) {
          const Slice slice = slice_of(rule, {rank, size});
          for (const Interval& i : slice.segments[s].intervals) {
            EXPECT_GE(rank, i.first_sharer);
            EXPECT_LT(rank, i.first_sharer + i.sharers);
            for (int64_t row = i.begin; row < i.end; ++row) ++holders[row], promised[row] = i.sharers;
          }
        }
        EXPECT_EQ(holders, promised) << rule.name() << " over " << size;
        EXPECT_TRUE(segment.shard_dim != kReplicated || holders[0] == size);
      }
  }
}

// Rows of a slice are what those rows of the slice hold, for every rule, cut and layout; and every element is answered for by one rank.
TEST(Placement, RowsOfASliceAndWhoAnswersForThem) {
  for (auto [groups, per_group, size] : {std::tuple{4, 2, 1}, {4, 2, 2}, {2, 4, 4}, {2, 4, 8}}) {
    const RuleTable table = rule_table(tiny(groups, per_group));
    for (const Rule& rule : table.rules) {
      const auto hf = hf_values(rule);
      int64_t elements = 0, own = 0;
      for (int64_t rank = 0; rank < size; ++rank) {
        const Slice slice = slice_of(rule, {rank, size});
        const Elements whole = local_values(rule, slice, hf);
        const int64_t rows = slice.shape[0], row = rows ? static_cast<int64_t>(whole.size()) / rows : 0;
        for (auto [begin, end] : {std::pair{int64_t{0}, rows}, {int64_t{0}, rows / 3}, {rows / 3, rows - 1}, {rows - 1, rows}, {rows / 2, rows / 2}}) {
          const Elements part = local_values(rule, rows_of(slice, {begin, end}), hf);
          EXPECT_EQ(part, Elements(whole.begin() + begin * row, whole.begin() + end * row)) << rule.name() << " rows " << begin << " to " << end;
        }
        for (const Rows& r : own_rows(rule, slice)) own += r.count() * row;
        elements = static_cast<int64_t>(numel(rule.shape));
      }
      EXPECT_EQ(own, elements) << rule.name() << " over " << size;
    }
  }
}

TEST(Shares, EveryRowOnceInOrderAndEvenly) {
  const std::vector<Extent> tensors = {{7, 10}, {1, 3}, {100, 1}, {0, 5}, {5, 40}};
  for (int64_t parts = 1; parts <= 9; ++parts) {
    const auto shares = share_rows(tensors, parts);
    std::vector<int64_t> next(tensors.size(), 0);
    int64_t position = 0;  // of the line: shares are stretches of it, one after another
    for (const auto& share : shares) {
      int64_t elements = 0;
      for (size_t t = 0; t < tensors.size(); ++t) {
        EXPECT_EQ(share[t].begin, next[t]);
        next[t] = share[t].end;
        elements += share[t].count() * tensors[t].row_elements;
      }
      EXPECT_NEAR(static_cast<double>(elements), 373.0 / static_cast<double>(parts), 40.0);
      position += elements;
    }
    EXPECT_EQ(position, 373);
    for (size_t t = 0; t < tensors.size(); ++t) EXPECT_EQ(next[t], tensors[t].rows);
  }
}

// Shard first, then fuse: a rank's fc1 is [its gate rows; its up rows].
TEST(Placement, GateAndUpAreCutApart) {
  const RuleTable table = rule_table(tiny(4, 2));
  const Rule& rule = table.find("decoder.layers.0.mlp.linear_fc1.weight");
  const auto hf = hf_values(rule);
  const Slice slice = slice_of(rule, {1, 4});
  EXPECT_EQ(slice.shape, (Shape{24, 8}));
  Elements want;
  for (int half = 0; half < 2; ++half)
    for (int64_t row = 12; row < 24; ++row)
      for (int64_t h = 0; h < 8; ++h) want.push_back(hf[half][row * 8 + h]);
  EXPECT_EQ(local_values(rule, slice, hf), want);
}

TEST(Placement, MoreRanksThanQueryGroups) {
  const int64_t G = 2, Q = 4, D = 3, H = 8, size = 4;
  const RuleTable table = rule_table(tiny(G, Q));
  const Rule& rule = table.find("decoder.layers.0.self_attention.linear_qkv.weight");
  const auto hf = hf_values(rule);
  for (int64_t rank = 0; rank < size; ++rank) {
    const Slice slice = slice_of(rule, {rank, size});
    EXPECT_EQ(slice.shape, (Shape{(2 + 2) * D, H}));  // two of a group's four query heads, and its key and value
    EXPECT_EQ(slice.gradient, GradientReduction::sum_sharers);
    const int64_t group = rank / 2;
    Elements want;
    for (int64_t row = (group * Q + (rank % 2) * 2) * D, n = 0; n < 2 * D; ++n, ++row)
      for (int64_t h = 0; h < H; ++h) want.push_back(hf[0][row * H + h]);
    for (int source : {1, 2})
      for (int64_t row = group * D; row < (group + 1) * D; ++row)
        for (int64_t h = 0; h < H; ++h) want.push_back(hf[source][row * H + h]);
    EXPECT_EQ(local_values(rule, slice, hf), want) << "rank " << rank;
    const Interval& key = slice.segments[0].intervals[1];
    EXPECT_EQ(key.first_sharer, group * 2);
    EXPECT_EQ(key.sharers, 2);
  }
  // The output projection follows the same heads.
  const Slice out = slice_of(table.find("decoder.layers.0.self_attention.linear_proj.weight"), {3, size});
  EXPECT_EQ(out.shape, (Shape{H, 2 * D}));
  EXPECT_EQ(out.segments[0].intervals[0].begin, 3 * 2 * D);
}

TEST(Placement, VocabularyIsPaddedAtRunTimeOnly) {
  const Rule rule = rule_table(tiny(4, 2)).find("embedding.word_embeddings.weight");
  EXPECT_EQ(rule.shape, (Shape{13, 8}));
  for (auto [rank, begin, end, padding] : {std::tuple{0, 0, 4, 0}, {2, 8, 12, 0}, {3, 12, 13, 3}}) {
    const Slice slice = slice_of(rule, {rank, 4});
    EXPECT_EQ(slice.shape, (Shape{4, 8}));
    EXPECT_EQ(slice.segments[0].intervals[0].begin, begin);
    EXPECT_EQ(slice.segments[0].intervals[0].end, end);
    EXPECT_EQ(slice.segments[0].padding, padding);
  }
}

TEST(Placement, GradientReductionOfReplicatedParameters) {
  const RuleTable table = rule_table(tiny(4, 2));
  const Rule& norm = table.find("decoder.final_layernorm.weight");
  const Rule& head_norm = table.find("decoder.layers.0.self_attention.q_layernorm.weight");
  EXPECT_EQ(slice_of(norm, {0, 2}).gradient, GradientReduction::none);
  EXPECT_EQ(slice_of(norm, {0, 2, true}).gradient, GradientReduction::sum_tensor_parallel);
  EXPECT_EQ(slice_of(head_norm, {0, 2}).gradient, GradientReduction::sum_tensor_parallel);
  EXPECT_EQ(slice_of(head_norm, {0, 1}).gradient, GradientReduction::none);
}

TEST(Placement, IndivisibleSizesAreErrors) {
  const RuleTable table = rule_table(tiny(4, 2));
  EXPECT_THROW(slice_of(table.find("decoder.layers.0.self_attention.linear_qkv.weight"), {0, 3}), UserError);
  EXPECT_THROW(slice_of(table.find("decoder.layers.0.self_attention.linear_qkv.weight"), {0, 16}), UserError);
  EXPECT_THROW(slice_of(table.find("decoder.layers.0.mlp.linear_fc2.weight"), {0, 5}), UserError);
}

}  // namespace
}  // namespace ponte::testing
