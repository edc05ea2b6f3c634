// Copies between a rule and its tensors, against an element-by-element walk.
#include "layout/copies.h"

#include <gtest/gtest.h>

#include <random>

#include "element_map.h"
#include "families/blocks.h"

namespace ponte::testing {
namespace {

ModelConfig config_of(int64_t groups, int64_t per_group, int64_t head_dim, int64_t hidden, int64_t ffn) {
  ModelConfig c;
  c.num_query_groups = groups;
  c.num_attention_heads = groups * per_group;
  c.kv_channels = head_dim;
  c.hidden_size = hidden;
  c.ffn_hidden_size = ffn;
  return c;
}

// Gated delta net's fused projection, as Qwen3-Next stores it: per key head [q(dk), k(dk), v(r x dv), z(r x dv)]; wanted: query, key, value, z apart.
Rule gated_delta_net(int64_t key_heads, int64_t dk, int64_t ratio, int64_t dv, int64_t hidden) {
  Rule rule;
  rule.leaf = "in_proj.weight";
  const int64_t head_rows = 2 * dk + 2 * ratio * dv;
  rule.sources = {{"in_proj_qkvz.weight", {key_heads * head_rows, hidden}}};
  int64_t row = 0, total = 0;
  auto add = [&](const char* name, int64_t rows) {
    Segment s;
    s.name = name;
    s.shape = {key_heads * rows, hidden};
    s.shard_dim = 0;
    s.unit = rows;
    s.boxes = {{0, row * hidden, {0, 0}, {{key_heads, head_rows * hidden, 0, rows}, {rows, hidden, 0, 1}, {hidden, 1, 1, 1}}}};
    row += rows;
    total += key_heads * rows;
    rule.segments.push_back(s);
  };
  add("query", dk);
  add("key", dk);
  add("value", ratio * dv);
  add("z", ratio * dv);
  rule.shape = {total, hidden};
  return rule;
}

// One expert of packed experts stored [E, in, 2 x ffn]: a transpose and two halves.
Rule packed_expert(int64_t experts, int64_t expert, int64_t hidden, int64_t ffn) {
  Rule rule;
  rule.leaf = "mlp.experts.linear_fc1.weight";
  rule.sources = {{"experts.gate_up_proj", {experts, hidden, 2 * ffn}}};
  for (int64_t half = 0; half < 2; ++half) {
    Segment s;
    s.name = half ? "up" : "gate";
    s.shape = {ffn, hidden};
    s.shard_dim = 0;
    s.boxes = {{0, expert * hidden * 2 * ffn + half * ffn, {0, 0}, {{ffn, 1, 0, 1}, {hidden, 2 * ffn, 1, 1}}}};
    rule.segments.push_back(s);
  }
  rule.shape = {2 * ffn, hidden};
  return rule;
}

std::vector<Rule> sample_rules() {
  const LayerPlace place{"decoder.layers", 0, 2, "model.layers.0."};
  std::vector<Rule> rules;
  for (auto [G, Q, D, H, F] : {std::tuple{2, 2, 4, 6, 8}, {1, 3, 2, 5, 4}, {3, 1, 3, 4, 6}, {2, 4, 1, 1, 2}}) {
    const ModelConfig c = config_of(G, Q, D, H, F);
    rules.push_back(fused_query_key_value(place, c, "weight"));
    rules.push_back(fused_query_key_value(place, c, "bias"));
    rules.push_back(fused_gate_up(place, "mlp.linear_fc1.weight", "g", "u", F, H));
    rules.push_back(copied(place, "mlp.linear_fc2.weight", "d", {H, F}, 1));
  }
  rules.push_back(gated_delta_net(2, 3, 2, 2, 5));
  rules.push_back(gated_delta_net(4, 1, 1, 3, 2));
  rules.push_back(packed_expert(3, 1, 5, 4));
  return rules;
}

// Independent of the boxes: Megatron's definition of the fused projection, one element at a time.
TEST(Boxes, QueryKeyValueIsGroupInterleaved) {
  const int64_t G = 3, Q = 2, D = 4, H = 5;
  const Rule rule = fused_query_key_value({"decoder.layers", 0, 1, "model.layers.0."}, config_of(G, Q, D, H, 8), "weight");
  const auto hf = hf_values(rule);
  const Elements got = whole_segment(rule, rule.segments[0], hf);
  Elements want;
  for (int64_t g = 0; g < G; ++g)
    for (int64_t j = 0; j < Q + 2; ++j)
      for (int64_t d = 0; d < D; ++d)
        for (int64_t h = 0; h < H; ++h)
          want.push_back(j < Q ? hf[0][((g * Q + j) * D + d) * H + h] : hf[j == Q ? 1 : 2][(g * D + d) * H + h]);
  EXPECT_EQ(got, want);
}

TEST(Boxes, PackedExpertIsTransposedAndHalved) {
  const int64_t E = 3, H = 5, F = 4;
  const Rule rule = packed_expert(E, 1, H, F);
  const auto hf = hf_values(rule);
  for (int64_t half = 0; half < 2; ++half) {
    Elements want;
    for (int64_t f = 0; f < F; ++f)
      for (int64_t h = 0; h < H; ++h) want.push_back(hf[0][(1 * H + h) * 2 * F + half * F + f]);
    EXPECT_EQ(whole_segment(rule, rule.segments[half], hf), want);
  }
}

TEST(Boxes, GatedDeltaNetSplitsPerHeadBlocks) {
  const int64_t K = 2, dk = 3, r = 2, dv = 2, H = 5, rows = 2 * dk + 2 * r * dv;
  const Rule rule = gated_delta_net(K, dk, r, dv, H);
  const auto hf = hf_values(rule);
  int64_t first = 0;
  for (const Segment& segment : rule.segments) {
    Elements want;
    for (int64_t k = 0; k < K; ++k)
      for (int64_t i = 0; i < segment.unit; ++i)
        for (int64_t h = 0; h < H; ++h) want.push_back(hf[0][(k * rows + first + i) * H + h]);
    EXPECT_EQ(whole_segment(rule, segment, hf), want) << segment.name;
    first += segment.unit;
  }
}

// Any window of any segment equals the same window of the whole, however it is cut.
TEST(Copies, WindowsOfBoxesEqualWindowsOfTheWhole) {
  std::mt19937 random(7);
  auto pick = [&](int64_t lo, int64_t hi) { return std::uniform_int_distribution<int64_t>(lo, hi)(random); };
  for (const Rule& rule : sample_rules()) {
    const auto hf = hf_values(rule);
    for (const Segment& segment : rule.segments) {
      const Elements whole = whole_segment(rule, segment, hf);
      ASSERT_EQ(std::count(whole.begin(), whole.end(), -1), 0) << rule.leaf << " is not covered";
      const Window all = dense_window(Shape(segment.shape.size(), 0), segment.shape);
      for (int trial = 0; trial < 200; ++trial) {
        Shape begin, end;
        for (int64_t extent : segment.shape) {
          begin.push_back(pick(0, extent - 1));
          end.push_back(pick(begin.back() + 1, extent));
        }
        const Window window = dense_window(begin, end, 3);
        Elements got(3 + window.elements(), -1), want = got;
        std::vector<Copy> copies, slow;
        for (const Box& box : segment.boxes) append_copies(box, window, copies);
        append_copies(all, window, 0, slow);
        int64_t total = 0;
        for (const Copy& copy : copies) apply(copy, hf[copy.source], got), total += copy.elements();
        for (const Copy& copy : slow) apply(copy, whole, want);
        ASSERT_EQ(got, want) << rule.leaf;
        ASSERT_EQ(total, window.elements()) << "an element is written twice";
      }
    }
  }
}

// A target filled stretch by stretch equals the target filled at once, and the reverse copies give the sources back.
TEST(Copies, StretchesAndReversal) {
  std::mt19937 random(11);
  for (const Rule& rule : sample_rules()) {
    const auto hf = hf_values(rule);
    std::vector<Elements> back;
    for (const Elements& e : hf) back.emplace_back(e.size(), -1);
    for (const Segment& segment : rule.segments) {
      const Elements whole = whole_segment(rule, segment, hf);
      std::vector<Copy> copies;
      for (const Box& box : segment.boxes) append_copies(box, dense_window(Shape(segment.shape.size(), 0), segment.shape), copies);
      Elements pieces;
      for (int64_t at = 0; at < static_cast<int64_t>(whole.size());) {
        const int64_t end = std::min<int64_t>(whole.size(), at + 1 + random() % 23);
        Elements part(end - at, -1);
        std::vector<Copy> within;
        for (const Copy& copy : copies) append_within(copy, at, end, within);
        int64_t total = 0;
        for (const Copy& copy : within) apply(copy, hf[copy.source], part), total += copy.elements();
        ASSERT_EQ(total, end - at);
        pieces.insert(pieces.end(), part.begin(), part.end());
        at = end;
      }
      ASSERT_EQ(pieces, whole) << rule.leaf;
      for (const Copy& copy : copies) apply(reversed(copy, 0), whole, back[copy.source]);
    }
    if (rule.leaf == "mlp.experts.linear_fc1.weight") continue;  // one expert is only part of its source
    ASSERT_EQ(back, hf) << rule.leaf;
  }
}

TEST(Copies, ContiguousCopiesBecomeOneRun) {
  const Rule rule = copied({}, "w", "w", {6, 4}, 0);
  std::vector<Copy> copies;
  append_copies(rule.segments[0].boxes[0], dense_window({2, 0}, {5, 4}), copies);
  ASSERT_EQ(copies.size(), 1u);
  ASSERT_EQ(copies[0].axes.size(), 1u);
  EXPECT_EQ(copies[0].axes[0].extent, 12);
  EXPECT_EQ(copies[0].from, 8);
}

}  // namespace
}  // namespace ponte::testing
