// What replicas hold at each strategy of sharding, in bytes of live tensors: the closed form, before a step and after it. Shares of all ranks together are
// the whole, however sizes divide.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <limits>

#include "comm/thread_group.h"
#include "equal/counting_allocator.h"
#include "families/rule.h"
#include "models.h"
#include "optim/adamw.h"
#include "parallel/data_parallel.h"
#include "parallel/pipeline.h"

namespace ponte {
namespace {

ModelConfig config() {
  return models::qwen3({.layers = 6, .hidden = 96, .ffn = 250, .heads = 4, .groups = 2, .head_dim = 24, .vocabulary = 301, .positions = 64});
}

struct Case {
  const char* name;
  DataParallel::Settings settings;
  at::ScalarType type;
  int64_t instances = 1;
  // Of all ranks' values, gradients, optimizer state: how many times the model they are.
  int64_t values, gradients, states;
};

constexpr int64_t kRanks = 4;

std::vector<Case> cases() {
  const auto of = [](Sharding sharding, Overlap overlap = Overlap::none, Copies copies = Copies::keep_all) {
    return DataParallel::Settings{.sharding = sharding, .copies = copies, .gradients = overlap, .values = overlap, .bucket_elements = 50000};
  };
  const auto ahead = Overlap::with_compute;
  std::vector<Case> out;
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    out.push_back({"no_shard", of(Sharding::nothing), type, 1, 4, 4, 4});
    out.push_back({"optim", of(Sharding::optimizer), type, 1, 4, 4, 1});
    out.push_back({"optim_grads", of(Sharding::gradients), type, 1, 4, 1, 1});
    out.push_back({"optim_grads_params", of(Sharding::parameters), type, 1, 1, 1, 1});
    out.push_back({"optim_grads_params ahead", of(Sharding::parameters, ahead), type, 1, 1, 1, 1});
    out.push_back({"two copies", of(Sharding::parameters), type, 2, 2, 2, 2});
    out.push_back({"two copies that share the optimizer", of(Sharding::parameters, ahead, Copies::share_optimizer), type, 2, 2, 2, 1});
  }
  return out;
}

Batch any_batch() {
  Batch out;
  out.tokens_BT = at::arange(2 * 32).view({2, 32}).remainder(300);
  out.labels_BT = out.tokens_BT;
  return out;
}

struct Bytes {
  int64_t before, built, between, after, peak;
};

Bytes measure(const Case& c) {
  Bytes out{};
  run_ranks(Mesh({.data = kRanks, .optimizer_instances = c.instances}), [&](const Groups& groups) {
    const auto look = [&](int64_t& bytes) {
      groups.world->barrier();
      if (groups.world->rank() == 0) bytes = counter().live();
      groups.world->barrier();
    };
    Model model(config(), groups, {.dtype = c.type, .parameters = Allocation::later});
    Model* const chunks[] = {&model};
    look(out.before);
    DataParallel replicas(chunks, groups, c.settings);
    std::vector<AdamW::Part> parts;
    for (const DataParallel::Share& share : replicas.shares()) parts.push_back({share.parameter, share.rows, {share.own}});
    AdamW optimizer(parts, {});
    look(out.built);
    model.initialize(1);
    optimizer.main_params_from_values();
    if (groups.world->rank() == 0) counter().restart();
    const auto step = [&] {
      model.zero_gradients();
      run_micro_batches(chunks, std::vector<Batch>{any_batch(), any_batch()});
      replicas.reduce_gradients();
      optimizer.step(1e-3, 0.1, 1.0);
      replicas.gather_values();
    };
    step();
    look(out.between);
    step();
    look(out.after);
    if (groups.world->rank() == 0) out.peak = counter().peak();
  });
  return out;
}

TEST(ShardingMemory, IsTheClosedForm) {
  counter();
  int64_t elements = 0;
  const Model whole(config());
  for (const Rule& rule : whole.rules().rules) {
    int64_t product = 1;
    for (const int64_t extent : rule.shape) product *= extent;
    elements += product;
  }
  for (const Case& c : cases()) {
    const int64_t value = c.type == at::kFloat ? 4 : 2, state = c.type == at::kFloat ? 8 : 12;  // two moments, and main parameters where values are narrower
    const Bytes bytes = measure(c);
    EXPECT_EQ(bytes.built - bytes.before, elements * (c.values * value + c.gradients * 4 + c.states * state)) << c.name << " " << c.type;
    EXPECT_EQ(bytes.after, bytes.between) << c.name << " " << c.type;
    EXPECT_EQ(bytes.after, bytes.built) << c.name << " " << c.type;
  }
}

// What is brought together for a while is two units at most: the fullest moment falls with what is held.
TEST(ShardingMemory, EachStrategyNeedsLess) {
  counter();
  int64_t before = std::numeric_limits<int64_t>::max();
  for (const Case& c : cases()) {
    if (c.instances > 1 || c.settings.values == Overlap::with_compute || c.type != at::kFloat) continue;
    const Bytes bytes = measure(c);
    EXPECT_LT(bytes.peak - bytes.before, before) << c.name;
    before = bytes.peak - bytes.before;
  }
}

}  // namespace
}  // namespace ponte
