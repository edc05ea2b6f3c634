// Names and chunks on disk, both dialects.
#include "convert/dialect.h"

#include <gtest/gtest.h>

namespace ponte {
namespace {

constexpr Dialect kStacked{Container::torch_dist, LayerKeys::stacked}, kNumbered{Container::torch_dist, LayerKeys::numbered},
    kFsdp{Container::fsdp_dtensor, LayerKeys::numbered};

Rule rule_of(std::string stack, int64_t layer, int64_t layers, std::string leaf, Shape shape, std::vector<Segment> segments) {
  Rule rule;
  rule.stack = std::move(stack);
  rule.layer = layer;
  rule.layer_count = layers;
  rule.leaf = std::move(leaf);
  rule.shape = std::move(shape);
  rule.segments = std::move(segments);
  return rule;
}

Segment segment_of(std::string name, Shape shape) {
  Segment segment;
  segment.name = std::move(name);
  segment.shape = std::move(shape);
  return segment;
}

// Keys and shapes as in the keys.txt of checkpoints written by Megatron Bridge.
TEST(Dialect, WhereSegmentsLie) {
  const Rule fc1 = rule_of("decoder.layers", 3, 28, "mlp.linear_fc1.weight", {10, 4}, {segment_of("gate", {5, 4}), segment_of("up", {5, 4})});
  Rule expert = fc1;
  expert.leaf = "mlp.experts.linear_fc1.weight";
  expert.expert = 6;
  expert.expert_count = 8;
  Rule delta = rule_of("decoder.layers", 0, 4, "self_attention.in_proj.weight", {9, 4}, {segment_of("query", {3, 4}), segment_of("beta", {6, 4})});
  delta.segment_keys = SegmentKeys::separate;
  const Rule mtp = rule_of("mtp.layers", 0, 1, "mtp_model_layer.mlp.linear_fc2.weight", {4, 5}, {segment_of("", {4, 5})});
  const Rule norm = rule_of("", -1, 0, "decoder.final_layernorm.weight", {4}, {segment_of("", {4})});
  const struct {
    const Rule& rule;
    size_t segment;
    Dialect dialect;
    const char* key;
    Shape shape, prefix;
    int64_t row;
  } cases[] = {
      {fc1, 0, kStacked, "decoder.layers.mlp.linear_fc1.weight", {28, 10, 4}, {3}, 0},
      {fc1, 1, kStacked, "decoder.layers.mlp.linear_fc1.weight", {28, 10, 4}, {3}, 5},
      {fc1, 1, kNumbered, "decoder.layers.3.mlp.linear_fc1.weight", {10, 4}, {}, 5},
      {fc1, 0, kFsdp, "model.module.decoder.layers.3.mlp.linear_fc1.weight_w", {5, 4}, {}, 0},
      {fc1, 1, kFsdp, "model.module.decoder.layers.3.mlp.linear_fc1.weight_v", {5, 4}, {}, 0},
      {expert, 1, kStacked, "decoder.layers.mlp.experts.experts.linear_fc1.weight", {28, 8, 10, 4}, {3, 6}, 5},
      {expert, 0, kNumbered, "decoder.layers.3.mlp.experts.experts.linear_fc1.weight", {8, 10, 4}, {6}, 0},
      {expert, 1, kFsdp, "model.module.decoder.layers.3.mlp.experts.linear_fc1.weight6_v", {5, 4}, {}, 0},
      {delta, 1, kNumbered, "decoder.layers.0.self_attention.in_proj.weight.beta", {6, 4}, {}, 0},
      {delta, 0, kFsdp, "model.module.decoder.layers.0.self_attention.in_proj.weight.query", {3, 4}, {}, 0},
      {mtp, 0, kStacked, "mtp.layers.0.transformer_layer.mlp.linear_fc2.weight", {4, 5}, {}, 0},
      {norm, 0, kStacked, "decoder.final_layernorm.weight", {4}, {}, 0},
  };
  for (const auto& c : cases) {
    const StoredSegment stored = stored_segment(c.rule, c.segment, c.dialect);
    EXPECT_EQ(stored.key, c.key);
    EXPECT_EQ(stored.shape, c.shape) << c.key;
    EXPECT_EQ(stored.prefix, c.prefix) << c.key;
    EXPECT_EQ(stored.row, c.row) << c.key;
  }
}

TEST(Dialect, ExtraStateKeys) {
  EXPECT_EQ(extra_state_key({"decoder.layers", 1, 2, "mlp.linear_fc1"}, kStacked), "decoder.layers.mlp.linear_fc1._extra_state/shard_1_2");
  EXPECT_EQ(extra_state_key({"decoder.layers", 1, 2, "mlp.linear_fc1"}, kNumbered), "decoder.layers.1.mlp.linear_fc1._extra_state/shard_0_1");
  EXPECT_EQ(extra_state_key({"", -1, 0, "decoder.final_layernorm"}, kStacked), "decoder.final_layernorm._extra_state/shard_0_1");
  EXPECT_EQ(extra_state_key({"decoder.layers", 0, 2, "mlp.experts.linear_fc2", 3, 8}, kNumbered),
            "decoder.layers.0.mlp.experts.experts.linear_fc2._extra_state/shard_3_8");
  EXPECT_EQ(extra_state_key({"decoder.layers", 1, 2, "mlp.experts.linear_fc2", 3, 8}, kStacked),
            "decoder.layers.mlp.experts.experts.linear_fc2._extra_state/shard_1.3_2.8");
}

}  // namespace
}  // namespace ponte
