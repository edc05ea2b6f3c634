// A rank reads the bytes of its shard and no others, from every format, weights and optimizer state.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <mutex>

#include "base/errors.h"
#include "base/file.h"
#include "comm/thread_group.h"
#include "convert/weight_source.h"
#include "parallel/rank_model.h"

namespace ponte {
namespace {

const fs::path kGolden = PONTE_GOLDEN_DIR;

ModelConfig laid_out(ModelConfig config) {
  config.tensor_model_parallel_size = 2;
  config.pipeline_model_parallel_size = 2;
  return config;
}

class ShardReading : public testing::TestWithParam<const char*> {};

TEST_P(ShardReading, WeightsOfTensorAndPipelineRanks) {
  const fs::path path = kGolden / GetParam();
  const ModelConfig config = laid_out(WeightSource::open(path)->config());
  std::mutex mutex;
  std::vector<uint64_t> read;
  run_ranks(Mesh({.tensor = 2, .pipeline = 2}), [&](const Groups& groups) {
    const auto source = WeightSource::open(path, config);
    RankModel model(config, groups);
    model.load(*source);
    uint64_t held = 0;
    for (const Parameter* parameter : model.parameters())
      held += static_cast<uint64_t>(parameter->value.numel() * dtype_bytes(source->dtype(*parameter->rule)));
    EXPECT_EQ(source->bytes_read(), held) << "rank " << groups.world->rank();
    const std::lock_guard lock(mutex);
    read.push_back(source->bytes_read());
  });
  const auto whole = WeightSource::open(path);
  uint64_t model_bytes = 0, most = 0;
  for (const Rule& rule : whole->rules().rules) {
    int64_t elements = 1;
    for (const int64_t extent : rule.shape) elements *= extent;
    model_bytes += static_cast<uint64_t>(elements * dtype_bytes(whole->dtype(rule)));
  }
  for (const uint64_t bytes : read) most = std::max(most, bytes);
  EXPECT_LT(most, model_bytes * 2 / 5) << "of " << model_bytes;  // a quarter, and of a tied embedding one more
}

TEST_P(ShardReading, NothingWhenOpened) { EXPECT_EQ(WeightSource::open(kGolden / GetParam())->bytes_read(), 0); }

INSTANTIATE_TEST_SUITE_P(Formats, ShardReading, testing::Values("qwen3_untied/hf", "qwen3_untied/mcore", "qwen3_tp2pp2/mcore", "qwen3_fsdp/fsdp"));

TEST(ShardReading, RowsOfOptimizerState) {
  const auto source = WeightSource::open(kGolden / "trained/qwen3_opt_fully_reshardable/mcore");
  const Rule& rule = source->rules().find("decoder.layers.1.mlp.linear_fc1.weight");
  const Slice slice = rows_of(slice_of(rule, {.rank = 1, .size = 2}), {5, 20});
  std::vector<std::byte> out(static_cast<size_t>(15 * rule.shape[1] * 4));
  source->read_state("optimizer.state.exp_avg.", rule, slice, out, DType::f32);
  EXPECT_EQ(source->bytes_read(), out.size());
}

}  // namespace
}  // namespace ponte
