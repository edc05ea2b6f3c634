// Plans of whole runs: sums that hold whatever the layout, memory by recompute and stage, published layouts at full scale, the search's reasons.
#include "layout/plan.h"


#include <gtest/gtest.h>

#include <set>

#include "base/errors.h"
#include "layout/plan_search.h"
#include "plan_models.h"

namespace ponte::testing {
namespace {

Machine h100() {
  Machine out;
  out.gpu = find_accelerator("h100");
  out.memory_bytes = 80e9;
  return out;
}

struct Sizes {
  int64_t tensor = 1, pipeline = 1, chunks = 0, context = 1, expert = 1, expert_tensor = 1;
};

Config run_of(const ModelConfig& model, const Sizes& s, int64_t ranks, int64_t global_batch = 1024) {
  Config c;
  c.model = model;
  c.model.tensor_model_parallel_size = s.tensor;
  c.model.sequence_parallel = s.tensor > 1;
  c.model.pipeline_model_parallel_size = s.pipeline;
  c.model.virtual_pipeline_model_parallel_size = s.chunks;
  c.model.context_parallel_size = s.context;
  c.model.expert_model_parallel_size = s.expert;
  c.model.expert_tensor_parallel_size = model.num_moe_experts ? s.expert_tensor : 0;
  c.model.bf16 = true;
  c.model.params_dtype = DType::bf16;
  const bool even = model.num_layers % (s.pipeline * std::max<int64_t>(s.chunks, 1)) == 0;
  c.model.account_for_embedding_in_pipeline_split = c.model.account_for_loss_in_pipeline_split = !even;
  c.train.global_batch_size = global_batch;
  c.train.micro_batch_size = 1;
  c.train.train_iters = 10;
  c.optimizer.lr = 1e-4;
  c.ddp.use_distributed_optimizer = true;
  c.ddp.grad_reduce_in_fp32 = true;
  finalize(c, ranks);
  validate(c, ranks);
  return c;
}

// What all ranks hold together is the model, as often as there are replicas: nothing is lost between stages and shards.
TEST(Plan, RanksTogetherHoldTheModel) {
  const struct {
    ModelConfig model;
    Sizes sizes;
    int64_t ranks;
  } cases[] = {{qwen3_8b(), {}, 4},
               {qwen3_8b(), {.tensor = 4, .pipeline = 2}, 16},
               {qwen3_8b(), {.pipeline = 4, .chunks = 3}, 8},
               {qwen3_235b(), {.tensor = 2, .pipeline = 8, .expert = 32}, 512},
               {qwen3_next_80b(), {.tensor = 2, .pipeline = 8, .expert = 16}, 256}};
  for (const auto& [model, s, ranks] : cases) {
    const ModelLayers layers(model);
    const Machine machine = h100();
    const Plan plan = Planner(layers, machine).plan(run_of(model, s, ranks), ranks);
    // Replicated over tensor ranks: what slices say is not cut.
    int64_t replicated = 0;
    for (const Rule& rule : layers.table.rules) {
      int64_t elements = 1;
      for (const int64_t extent : rule.shape) elements *= extent;
      if (rule.segments[0].shard_dim == kReplicated) replicated += elements;
    }
    int64_t dense = 0, expert = 0;
    for (const StagePlan& stage : plan.stages) {
      dense += stage.weights.dense + stage.weights.fp32;
      expert += stage.weights.expert;
    }
    const int64_t copies =
        model.mtp_num_layers > 0 && s.pipeline > 1 ? model.vocab_size * model.hidden_size : 0;  // predictions look words up on the last stage
    EXPECT_EQ(dense * s.tensor + expert * s.expert, layers.parameters + (s.tensor - 1) * replicated + copies) << model.model_type << " TP" << s.tensor;
  }
}

TEST(Plan, PublishedLayoutsAtFullScale) {
  const struct {
    ModelConfig model;
    Sizes sizes;
    int64_t ranks;
  } cases[] = {{qwen3_235b(), {.tensor = 2, .pipeline = 8, .expert = 32}, 4096},
               {qwen3_235b(), {.tensor = 2, .pipeline = 8, .chunks = 4, .expert = 32}, 256},
               {qwen3_next_80b(), {.tensor = 2, .pipeline = 8, .expert = 16}, 4096}};
  for (const auto& [model, sizes, ranks] : cases) {
    const ModelLayers layers(model);
    const Machine machine = h100();
    const Plan plan = Planner(layers, machine).plan(run_of(model, sizes, ranks, 4096), ranks);
    EXPECT_EQ(plan.stages.size(), 8u);
    EXPECT_EQ(plan.expert_data * sizes.expert * sizes.pipeline, ranks);
    EXPECT_LT(static_cast<double>(plan.memory().total()), machine.memory_bytes) << model.model_type;
    EXPECT_GT(plan.seconds.total(), 0);
    double flops = 0;
    for (const StagePlan& stage : plan.stages) flops += stage.flops * static_cast<double>(ranks) / 8;
    // Routers are computed by every tensor-parallel rank for its own tokens; all else is done once.
    EXPECT_NEAR(flops / plan.flops_per_step, 1.0, 1e-6) << model.model_type;
  }
}

TEST(Plan, OptimizerStateIsSharedByReplicas) {
  const ModelLayers layers(qwen3_8b());
  const Machine machine = h100();
  Config config = run_of(qwen3_8b(), {.tensor = 2}, 16);
  const Plan shared = Planner(layers, machine).plan(config, 16);
  config.ddp.use_distributed_optimizer = config.optimizer.use_distributed_optimizer = false;
  const Plan whole = Planner(layers, machine).plan(config, 16);
  const int64_t elements = whole.stages[0].weights.total();
  EXPECT_EQ(whole.memory().optimizer, 12 * elements);
  EXPECT_EQ(shared.memory().optimizer, 12 * ((elements + 7) / 8));
  EXPECT_EQ(shared.memory().gradients, 4 * elements);
  EXPECT_EQ(shared.memory().parameters, 2 * elements);
}

// A pipeline's first stage holds as many micro-batches as there are stages; each further one fewer.
TEST(Plan, MicroBatchesInFlight) {
  const ModelLayers layers(qwen3_8b());
  const Machine machine = h100();
  const Plan plan = Planner(layers, machine).plan(run_of(qwen3_8b(), {.pipeline = 4}, 4, 64), 4);
  for (int64_t stage = 0; stage < 4; ++stage) EXPECT_EQ(plan.stages[static_cast<size_t>(stage)].in_flight, 4 - stage);
  EXPECT_NEAR(plan.bubble, 3.0 / (64 + 3), 1e-12);
  const Plan interleaved = Planner(layers, machine).plan(run_of(qwen3_8b(), {.pipeline = 4, .chunks = 3}, 4, 64), 4);
  EXPECT_NEAR(interleaved.bubble, 1.0 / (64 + 1), 1e-12);
  // Twice the micro-batches of a full pipeline keep nothing more.
  const Plan longer = Planner(layers, machine).plan(run_of(qwen3_8b(), {.pipeline = 4}, 4, 4096), 4);
  EXPECT_EQ(longer.memory().activations, plan.memory().activations);
}

TEST(Plan, MoreRecomputeKeepsLess) {
  const ModelLayers layers(qwen3_235b());
  const Machine machine = h100();
  Config config = run_of(qwen3_235b(), {.tensor = 2, .pipeline = 8, .expert = 32}, 512);
  std::vector<std::pair<int64_t, double>> memory_and_time;
  const auto measure = [&](const char* granularity, const char* method, std::vector<std::string> modules) {
    config.model.recompute_granularity = granularity;
    config.model.recompute_method = method;
    config.model.recompute_modules = std::move(modules);
    const Plan plan = Planner(layers, machine).plan(config, 512);
    memory_and_time.push_back({plan.memory().activations, plan.seconds.total()});
  };
  measure("", "", {});
  measure("selective", "", {"core_attn"});
  measure("selective", "", {"core_attn", "moe"});
  measure("full", "uniform", {});
  for (size_t i = 1; i < memory_and_time.size(); ++i) {
    EXPECT_LT(memory_and_time[i].first, memory_and_time[i - 1].first) << i;
    EXPECT_GE(memory_and_time[i].second, memory_and_time[i - 1].second) << i;
  }
}

TEST(Tape, PeaksOfATapeWalkedThereAndBack) {
  const Tape tape = {{10, 15, 5}, {20, 50, 7}, {30, 31, 40}};
  EXPECT_EQ(kept_bytes(tape), 60);
  EXPECT_EQ(forward_peak(tape), 61);   // 10 + 20 + 31
  EXPECT_EQ(backward_peak(tape), 100); // 60 + 40
  const TapeStep again = recomputed(std::vector<Tape>{tape, tape}, 4);
  EXPECT_EQ(again.kept, 4);
  EXPECT_EQ(again.forward, 4 + 61);
  EXPECT_EQ(again.backward, 60 + 100);
}

TEST(Volume, WireBytesOfCollectives) {
  EXPECT_DOUBLE_EQ(wire_bytes(Movement::all_reduce, 800, 8), 1400);
  EXPECT_DOUBLE_EQ(wire_bytes(Movement::all_gather, 800, 8), 700);
  EXPECT_DOUBLE_EQ(wire_bytes(Movement::all_to_all, 800, 8), 800);
  EXPECT_DOUBLE_EQ(wire_bytes(Movement::all_reduce, 800, 1), 0);
}

TEST(Cost, SlowestLinkDecides) {
  Machine machine = h100();
  machine.efficiency.link_latency_us = machine.efficiency.network_latency_us = 0;
  machine.efficiency.link = machine.efficiency.network = 1;
  EXPECT_DOUBLE_EQ(seconds(Movement::all_gather, 8e9, {8, 8}, machine), 7e9 / 450e9);
  // Two nodes of eight: each rank's interface brings an eighth of the other node's half.
  EXPECT_DOUBLE_EQ(seconds(Movement::all_gather, 16e9, {16, 8}, machine), std::max(8e9 / 8 / 50e9, 15e9 / 450e9));
  EXPECT_DOUBLE_EQ(seconds(Movement::all_to_all, 15e9, {16, 8}, machine), 8e9 / 50e9);
  EXPECT_DOUBLE_EQ(seconds(Movement::transfer, 5e9, {8, 1}, machine), 0.1);
  EXPECT_EQ(seconds(Movement::all_reduce, 1e9, {1, 1}, machine), 0);
  EXPECT_THROW(find_accelerator("h10"), UserError);
  EXPECT_DOUBLE_EQ(network_gb_per_s("400"), 50);
  EXPECT_DOUBLE_EQ(network_gb_per_s("hdr200"), 25);
  for (const char* wrong : {"", "fast", "400x", "-1", "0"}) EXPECT_THROW(network_gb_per_s(wrong), UserError) << wrong;
}

TEST(Search, FindsWhatFitsAndSaysWhyOthersDoNot) {
  const ModelLayers layers(qwen3_8b());
  const Machine machine = h100();
  const Config config = run_of(qwen3_8b(), {}, 16);
  const SearchResult result = search_layouts(layers, config, 16, machine, {}, 5);
  ASSERT_EQ(result.best.size(), 5u);
  EXPECT_EQ(result.tried, result.fitting + static_cast<int64_t>(result.rejected.size()));
  for (const Plan& plan : result.best) {
    EXPECT_LE(static_cast<double>(plan.memory().total()), machine.memory_bytes);
    EXPECT_NO_THROW(validate(plan.config, 16));
  }
  std::set<std::string> kinds;
  for (const Rejection& r : result.rejected) {
    kinds.insert(r.kind);
    EXPECT_FALSE(r.reason.empty());
  }
  EXPECT_TRUE(kinds.contains("tensor ranks over nodes"));
  EXPECT_TRUE(kinds.contains("does not divide"));

  Machine small = machine;
  small.memory_bytes = 8e9;
  const SearchResult none = search_layouts(layers, config, 16, small, {}, 5);
  EXPECT_TRUE(std::any_of(none.rejected.begin(), none.rejected.end(), [](const Rejection& r) { return r.kind == "memory" && r.excess > 0; }));
  EXPECT_LT(none.fitting, result.fitting);
}

TEST(Search, WhatTheUserSaidStays) {
  const ModelLayers layers(qwen3_235b());
  const Machine machine = h100();
  const Config config = run_of(qwen3_235b(), {.tensor = 2, .pipeline = 8, .expert = 32}, 512);
  const FixedAxes fixed{.tensor = true, .pipeline = true, .expert = true};
  const SearchResult result = search_layouts(layers, config, 512, machine, fixed, 3);
  ASSERT_FALSE(result.best.empty());
  for (const Plan& plan : result.best) {
    EXPECT_EQ(plan.mesh.tensor, 2);
    EXPECT_EQ(plan.mesh.pipeline, 8);
    EXPECT_EQ(plan.mesh.expert, 32);
  }
  // The overrides say exactly what differs.
  Config other = result.best[0].config;
  EXPECT_TRUE(overrides_of(result.best[0], other).empty());
  other.model.context_parallel_size += 1;
  const std::vector<std::string> said = overrides_of(result.best[0], other);
  ASSERT_EQ(said.size(), 1u);
  EXPECT_EQ(said[0], "model.context_parallel_size=" + std::to_string(result.best[0].mesh.context));
}

}  // namespace
}  // namespace ponte::testing
