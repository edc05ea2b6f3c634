// Sums over the rule table: FLOPs of published models against their published sizes, and every layer's share against slices taken one by one.
#include "layout/plan_layers.h"

#include <gtest/gtest.h>

#include "base/errors.h"
#include "plan_models.h"

namespace ponte::testing {
namespace {

int64_t numel(const Shape& shape) {
  int64_t out = 1;
  for (const int64_t extent : shape) out *= extent;
  return out;
}

// Every rule of a layer cut on its own, experts one by one.
WeightCount cut_one_by_one(const RuleTable& table, std::string_view stack, int64_t layer, const LayerShards& shards) {
  WeightCount out;
  for (const Rule& rule : table.rules) {
    if (rule.stack != stack || rule.layer != layer || rule.expert >= rule.expert_count / shards.expert) continue;
    const int64_t elements = numel(slice_of(rule, rule.expert >= 0 ? shards.expert_tensor : shards.tensor).shape);
    (rule.expert >= 0 ? out.expert : rule.precision == Precision::fp32 ? out.fp32 : out.dense) += elements;
  }
  return out;
}

TEST(PlanLayers, AlikeLayersAreCountedOnce) {
  const struct {
    ModelConfig config;
    size_t classes;
  } cases[] = {{qwen3_235b(), 1}, {qwen3_next_80b(), 3}};  // delta and full attention; a prediction layer
  for (const auto& [config, classes] : cases) {
    const ModelLayers layers(config);
    EXPECT_EQ(layers.classes.size(), classes);
    EXPECT_EQ(static_cast<int64_t>(layers.prediction.size()), config.mtp_num_layers);
  }
}

TEST(PlanLayers, ShareIsTheSumOfSlices) {
  ModelConfig config = qwen3_next_80b();
  config.num_layers = 4;
  config.layer_types.resize(4);
  config.num_moe_experts = 16;
  const ModelLayers layers(config);
  for (auto [tensor, expert_tensor, expert] : {std::tuple{1, 1, 1}, {2, 1, 4}, {4, 2, 2}, {2, 2, 16}}) {
    const LayerShards shards{{0, tensor, tensor > 1}, {0, expert_tensor, false}, expert};
    for (size_t layer = 0; layer < layers.decoder.size(); ++layer) {
      const WeightCount got = local_layer(layers, layers.decoder[layer], shards).weights;
      const WeightCount want = cut_one_by_one(layers.table, "decoder.layers", static_cast<int64_t>(layer), shards);
      EXPECT_EQ(got.dense, want.dense) << layer;
      EXPECT_EQ(got.fp32, want.fp32) << layer;
      EXPECT_EQ(got.expert, want.expert) << layer;
    }
  }
}

TEST(PlanLayers, PublishedSizes) {
  const struct {
    ModelConfig config;
    double billions, active_billions;
  } cases[] = {{qwen3_8b(), 8.19, 8.19}, {qwen3_235b(), 235.1, 22.2}, {qwen3_next_80b(), 81.3, 3.9}};
  for (const auto& [config, billions, active] : cases) {
    const ModelLayers layers(config);
    EXPECT_NEAR(static_cast<double>(layers.parameters) / 1e9, billions, 0.1) << config.model_type;
    EXPECT_NEAR(static_cast<double>(layers.active_parameters) / 1e9, active, 0.1) << config.model_type;
  }
}

// Megatron's closed form for a dense model: 6 x (weights of matrices, output layer included) + 6 x layers x length x width.
TEST(PlanLayers, TrainingFlops) {
  const ModelConfig c = qwen3_8b();
  const ModelLayers layers(c);
  const double matrices = c.num_layers * (4096.0 * (32 + 2 * 8) * 128 + 4096.0 * 32 * 128 + 3 * 4096.0 * 12288) + 151936.0 * 4096;
  EXPECT_DOUBLE_EQ(layers.training_flops_per_token, 6 * matrices + 6.0 * c.num_layers * c.seq_length * 32 * 128);

  // One gated delta net layer of Qwen3-Next: projections, convolution, recurrence.
  ModelConfig one = qwen3_next_80b();
  one.num_layers = 1;
  one.layer_types = {"linear_attention"};
  one.mtp_num_layers = 0;
  const double H = 2048, K = 16 * 128, V = 32 * 128;
  const double mixer = H * (2 * K + 2 * V + 2 * 32) + 4 * (2 * K + V) + 32 * 128.0 * 128 * 4 + H * V;
  const double feed_forward = H * 512 + 10 * 3 * H * 512 + 3 * H * 512 + H, head = 151936 * H;
  EXPECT_DOUBLE_EQ(ModelLayers(one).training_flops_per_token, 6 * (mixer + feed_forward + head));
}

// Beside each targeted matrix one of rank x its columns and one of its rows x rank; nothing else is trained.
TEST(PlanLayers, AdaptersAreTrainedAlone) {
  PeftConfig lora;
  lora.scheme = "lora";
  lora.dim = 8;
  lora.target_modules = {"linear_qkv", "linear_proj"};
  const ModelLayers plain(qwen3_8b()), adapted(qwen3_8b(), lora);
  const LayerShards shards{{0, 2, false}, {0, 1, false}, 1};
  const WeightCount all = local_layer(plain, 0, shards).weights, with = local_layer(adapted, 0, shards).weights;
  EXPECT_EQ(with.base, all.dense);
  const int64_t qkv_rows = (32 + 2 * 8) * 128 / 2, heads = 32 * 128 / 2;
  EXPECT_EQ(with.dense, 8 * (4096 + qkv_rows) + 8 * (heads + 4096));
  EXPECT_EQ(with.expert + with.fp32 + with.summed, 0);
}

TEST(PlanLayers, IndivisibleShardsAreErrors) {
  const ModelLayers layers(qwen3_8b());
  EXPECT_THROW(local_layer(layers, 0, {{0, 5, false}, {0, 1, false}, 1}), UserError);
}

}  // namespace
}  // namespace ponte::testing
