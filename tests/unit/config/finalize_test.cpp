// What follows from other keys.
#include <gtest/gtest.h>

#include "base/errors.h"
#include "config/config.h"
#include "config/document.h"
#include "config/precision.h"

namespace ponte {
namespace {

Config config_with(const std::vector<std::string>& overrides) {
  ConfigDraft draft;
  for (const std::string& o : overrides) apply_override(draft, o, "test");
  return draft.config;
}

TEST(Finalize, PrecisionReachesModelOptimizerAndGradients) {
  struct Row {
    const char* name;
    DType params;
    bool bf16, fp16, reduce_fp32;
  };
  for (const Row& row : {Row{"bf16_mixed", DType::bf16, true, false, true}, Row{"fp16_mixed", DType::f16, false, true, false},
                         Row{"fp32", DType::f32, false, false, true}, Row{"bf16_with_fp8_current_scaling_mixed", DType::bf16, true, false, true}}) {
    Config c = config_with({std::string("mixed_precision=") + row.name, "train.train_iters=10", "train.global_batch_size=2"});
    finalize(c);
    EXPECT_EQ(c.model.params_dtype, row.params) << row.name;
    EXPECT_EQ(c.optimizer.params_dtype, row.params);
    EXPECT_EQ(c.model.bf16, row.bf16);
    EXPECT_EQ(c.optimizer.fp16, row.fp16);
    EXPECT_EQ(c.ddp.grad_reduce_in_fp32, row.reduce_fp32) << row.name;
  }
  Config c = config_with({"mixed_precision=null", "model.bf16=true", "model.params_dtype=bf16", "ddp.grad_reduce_in_fp32=false"});
  finalize(c);
  EXPECT_EQ(c.optimizer.params_dtype, DType::bf16);
  EXPECT_FALSE(c.ddp.grad_reduce_in_fp32);
  EXPECT_EQ(precision_preset("bf16_with_mxfp8_mixed").fp8_recipe, "mxfp8");
  EXPECT_EQ(precision_preset("nemotron-h-bf16-with-fp8-current-scaling-mixed").num_layers_at_end_in_bf16, 2);
}

TEST(Finalize, FillsWhatFollows) {
  Config c = config_with({"model.seq_length=64", "train.train_samples=1000", "train.micro_batch_size=2", "rng.seed=7", "optimizer.weight_decay=0.3"});
  finalize(c, 4);
  EXPECT_EQ(c.dataset.seq_length, 64);
  EXPECT_EQ(c.dataset.random_seed, 7);
  EXPECT_EQ(c.train.global_batch_size, 8);
  EXPECT_EQ(c.train.train_iters, 125);
  EXPECT_EQ(c.scheduler.lr_decay_samples, 1000);
  EXPECT_EQ(c.scheduler.start_weight_decay, 0.3);
  EXPECT_EQ(c.validation.eval_global_batch_size, 8);
  const Config once = c;
  finalize(c, 4);
  EXPECT_TRUE(config_difference(once, c).empty());
}

TEST(Finalize, LayerTypesHaveShortNames) {
  const Config c = config_with({"model.layer_types=[full,linear,sliding,linear_attention]"});
  EXPECT_EQ(c.model.layer_types, (std::vector<std::string>{"full_attention", "linear_attention", "sliding_attention", "linear_attention"}));
}

TEST(Finalize, AccumulationDecidesTheBatch) {
  Config c = config_with({"train.train_iters=10", "train.micro_batch_size=2", "train.global_batch_size=64", "train.accumulate_grad_batches=3",
                          "model.tensor_model_parallel_size=2"});
  finalize(c, 8);
  EXPECT_EQ(c.train.global_batch_size, 3 * 2 * 4);
}

TEST(Finalize, LayersOfAChunkDecideTheChunks) {
  const auto chunks = [](const std::vector<std::string>& changes, int64_t each) {
    std::vector<std::string> all = {"model.num_layers=24", "model.pipeline_model_parallel_size=4", "train.train_iters=10", "train.global_batch_size=8",
                                    "model.num_layers_per_virtual_pipeline_stage=" + std::to_string(each)};
    all.insert(all.end(), changes.begin(), changes.end());
    Config c = config_with(all);
    finalize(c, 4);
    finalize(c, 4);  // idempotent
    return c.model.virtual_pipeline_model_parallel_size;
  };
  EXPECT_EQ(chunks({}, 2), 3);
  EXPECT_EQ(chunks({}, 6), 0);
  EXPECT_EQ(chunks({"model.num_layers=22", "model.account_for_embedding_in_pipeline_split=true", "model.account_for_loss_in_pipeline_split=true"}, 2), 3);
  EXPECT_EQ(chunks({"model.virtual_pipeline_model_parallel_size=2"}, 2), 2);  // validate() says that they differ
}

// As Bridge's _calculate_scheduler_steps.
TEST(Finalize, SchedulerStepsCountSamples) {
  Config c = config_with({"train.train_iters=100", "train.global_batch_size=32", "scheduler.lr_warmup_iters=500"});
  finalize(c);
  SchedulerSteps steps = scheduler_steps(c);
  EXPECT_EQ(steps.decay, 3200);
  EXPECT_EQ(steps.warmup, 3199);  // capped below the decay
  EXPECT_EQ(steps.weight_decay, 3200);
  c = config_with({"train.train_iters=100", "train.global_batch_size=3", "scheduler.lr_warmup_fraction=0.05", "scheduler.lr_decay_iters=50"});
  finalize(c);
  steps = scheduler_steps(c);
  EXPECT_EQ(steps.decay, 150);
  EXPECT_EQ(steps.weight_decay, 300);
  EXPECT_DOUBLE_EQ(steps.warmup, 7.5);
  c = config_with({"train.train_iters=100", "train.global_batch_size=2", "scheduler.lr_decay_style=WSD"});
  finalize(c);
  EXPECT_EQ(scheduler_steps(c).wsd_decay, 200);
}

TEST(Finalize, CountsReplicasAndMicrobatches) {
  Config c = config_with(
      {"model.tensor_model_parallel_size=2", "model.pipeline_model_parallel_size=2", "train.global_batch_size=24", "train.micro_batch_size=3"});
  EXPECT_EQ(data_parallel_size(c.model, 8), 2);
  EXPECT_EQ(num_microbatches(c, 8), 4);
  EXPECT_THROW(data_parallel_size(c.model, 6), UserError);
  EXPECT_THROW(data_parallel_size(c.model, 2), UserError);
  EXPECT_THROW(num_microbatches(c, 12), UserError);  // 24 sequences, 3 replicas of 3
}

}  // namespace
}  // namespace ponte
