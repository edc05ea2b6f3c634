// What a zero-bubble schedule would bring, beside those there are: ZB-H1 (Qi et al. 2023) cuts a backward pass in two, and gradients of weights wait until the
// rank has nothing else to do. docs/parallelism.md says what follows from these figures.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>

#include "base/format.h"
#include "layout/pipeline_schedule.h"
#include "layout/plan.h"
#include "plan_models.h"

namespace ponte::testing {
namespace {

// Of one micro-batch on one stage.
struct Times {
  double forward, backward, weights;  // backward: gradients of activations; weights: those of weights
  double all() const { return forward + backward + weights; }
};

enum class Work { forward, backward, weights };
struct Step {
  Work work;
  int64_t micro_batch;
};

// 1F1B's order; gradients of weights come `rank` micro-batches late, so that no rank holds more than the first one.
std::vector<Step> zero_bubble(int64_t ranks, int64_t micro_batches, int64_t rank) {
  std::vector<Step> out;
  int64_t forward = 0, weights = 0;
  while (forward < std::min(ranks - rank, micro_batches)) out.push_back({Work::forward, forward++});
  for (int64_t m = 0; m < micro_batches; ++m) {
    out.push_back({Work::backward, m});
    if (m >= rank) out.push_back({Work::weights, weights++});
    if (forward < micro_batches) out.push_back({Work::forward, forward++});
  }
  while (weights < micro_batches) out.push_back({Work::weights, weights++});
  return out;
}

struct Outcome {
  double time = 0;
  int64_t held = 0;  // most micro-batches of a rank between their forward pass and their gradients of weights
};

Outcome simulate_zero_bubble(int64_t ranks, int64_t micro_batches, const Times& times) {
  std::vector<std::vector<Step>> lists;
  for (int64_t r = 0; r < ranks; ++r) lists.push_back(zero_bubble(ranks, micro_batches, r));
  std::map<std::tuple<Work, int64_t, int64_t>, double> ended;  // work, micro-batch, rank
  std::vector<size_t> next(lists.size());
  std::vector<double> clock(lists.size());
  std::vector<int64_t> held(lists.size());
  Outcome out;
  for (bool moved = true; moved;) {
    moved = false;
    for (int64_t r = 0; r < ranks; ++r)
      for (; next[r] < lists[r].size(); ++next[r], moved = true) {
        const auto [work, m] = lists[r][next[r]];
        const int64_t from = work == Work::weights ? -1 : work == Work::forward ? r - 1 : r + 1;
        double start = clock[r];
        if (from >= 0 && from < ranks) {
          const auto input = ended.find({work, m, from});
          if (input == ended.end()) break;
          start = std::max(start, input->second);
        }
        clock[r] = start + (work == Work::forward ? times.forward : work == Work::backward ? times.backward : times.weights);
        ended[{work, m, r}] = clock[r];
        held[r] += work == Work::forward ? 1 : work == Work::weights ? -1 : 0;
        out.held = std::max(out.held, held[r]);
      }
  }
  for (size_t r = 0; r < lists.size(); ++r) EXPECT_EQ(next[r], lists[r].size());
  out.time = *std::max_element(clock.begin(), clock.end());
  return out;
}

// The paper's closed form: each of ranks - 1 places of the pipeline costs F + B - W, where 1F1B's cost F + B + W; no more is held than 1F1B's first rank holds.
TEST(ZeroBubble, IsTheClosedForm) {
  for (const Times& t : {Times{1, 1, 1}, Times{1, 1.5, 0.5}, Times{1, 2, 1}})
    for (int64_t ranks = 2; ranks <= 8; ++ranks)
      for (const int64_t micro_batches : {2 * ranks, 4 * ranks, 4 * ranks + 1}) {
        const Outcome run = simulate_zero_bubble(ranks, micro_batches, t);
        const double work = static_cast<double>(micro_batches) * t.all();
        EXPECT_NEAR(run.time, work + static_cast<double>(ranks - 1) * (t.forward + t.backward - t.weights), 1e-9) << ranks << " " << micro_batches;
        EXPECT_LE(run.held, ranks);
        EXPECT_NEAR(simulate({.ranks = ranks, .micro_batches = micro_batches}, t.forward, t.backward + t.weights).time,
                    work + static_cast<double>(ranks - 1) * t.all(), 1e-9);
      }
}

// A plan's step with interleaved chunks, and its step without them if the pipeline's idle time were ZB-H1's. Gradients of weights are taken to cost what the
// products and the attention of the forward pass cost, which is more than they do and in favour of ZB-H1.
TEST(ZeroBubble, InterleavingIsAheadOfIt) {
  const struct {
    const char* name;
    ModelConfig model;
    int64_t expert;
    bool recompute;
  } cases[] = {{"Qwen3-235B-A22B", qwen3_235b(), 32, false},
               {"Qwen3-235B-A22B, full recompute", qwen3_235b(), 32, true},
               {"Qwen3-Next-80B-A3B", qwen3_next_80b(), 16, false}};
  for (const auto& c : cases) {
    const ModelLayers layers(c.model);
    Machine machine;
    machine.gpu = find_accelerator("h100");
    const auto plan = [&](int64_t chunks) {
      Config config;
      config.model = c.model;
      config.model.tensor_model_parallel_size = 2;
      config.model.sequence_parallel = true;
      config.model.pipeline_model_parallel_size = 8;
      config.model.virtual_pipeline_model_parallel_size = chunks;
      config.model.expert_model_parallel_size = c.expert;
      config.model.expert_tensor_parallel_size = 1;
      config.model.account_for_embedding_in_pipeline_split = config.model.account_for_loss_in_pipeline_split = c.model.num_layers % 8 != 0;
      config.model.bf16 = true;
      config.model.params_dtype = DType::bf16;
      if (c.recompute) config.model.recompute_granularity = "full", config.model.recompute_method = "uniform";
      config.train.global_batch_size = 1024;
      config.train.micro_batch_size = 1;
      config.train.train_iters = 10;
      config.optimizer.lr = 1e-4;
      config.ddp.use_distributed_optimizer = true;
      finalize(config, 512);
      validate(config, 512);
      return Planner(layers, machine).plan(config, 512);
    };
    const Plan plain = plan(0);
    const StagePlan& slow = plain.stages[plain.slowest];
    const double weights = slow.forward.compute, forward = slow.forward.total(), backward = slow.backward.total() - weights;
    const Outcome run = simulate_zero_bubble(8, plain.micro_batches, {forward, backward, weights});
    const double idle = run.time - static_cast<double>(plain.micro_batches) * (forward + backward + weights);
    const double zero_bubble = plain.seconds.total() - plain.seconds.bubble + idle;
    const auto record = [&](const std::string& schedule, double seconds, double bubble) {
      RecordProperty(format("{}, {}", c.name, schedule), format("{:.3f} s, bubble {:.1f} %", seconds, 100 * bubble / seconds));
    };
    record("1F1B", plain.seconds.total(), plain.seconds.bubble);
    record("ZB-H1", zero_bubble, idle);
    EXPECT_LT(zero_bubble, plain.seconds.total());
    for (const int64_t chunks : {2, 3, 6}) {
      const StepSeconds interleaved = plan(chunks).seconds;
      record(format("{} chunks", chunks), interleaved.total(), interleaved.bubble);
      EXPECT_LT(interleaved.total(), zero_bubble) << c.name << " " << chunks;
      EXPECT_LT(interleaved.bubble, idle) << c.name << " " << chunks;
    }
  }
}

}  // namespace
}  // namespace ponte::testing
