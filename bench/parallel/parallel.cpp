// parallel_bench [steps] [tp|sp|pp|cp|dp|zero|ep=RANKS ...]: one rank of a training step over processes (RANK, WORLD_SIZE, MASTER_PORT as torchrun sets them;
// bench/parallel/run.py starts them). Rank 0 prints one JSON object: time of a step, time inside collectives, and the bytes handed to them beside those of the
// plan's closed form. Each replica has the same work whatever their number (weak scaling).
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <string>

#include "base/errors.h"
#include "comm/ranks.h"
#include "layout/plan.h"
#include "models.h"
#include "optim/adamw.h"
#include "parallel/data_parallel.h"
#include "parallel/pipeline.h"
#include "parallel/rank_model.h"

namespace ponte {
namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// Adds up the time spent in a group's collectives, waiting for the others included.
class TimedGroup final : public Group {
 public:
  TimedGroup(std::shared_ptr<Group> group, double& seconds) : group_(std::move(group)), seconds_(seconds) {}
  int64_t rank() const override { return group_->rank(); }
  int64_t size() const override { return group_->size(); }
  void barrier() override { group_->barrier(); }

 protected:
  template <class Body>
  auto timed(Body body) {
    const Clock::time_point start = Clock::now();
    auto out = body();
    seconds_ += seconds_since(start);
    return out;
  }
  void do_all_reduce(at::Tensor& t, ReduceOp op) override { timed([&] { group_->all_reduce(t, op); return 0; }); }
  at::Tensor do_all_gather(const at::Tensor& t) override { return timed([&] { return group_->all_gather(t); }); }
  at::Tensor do_reduce_scatter_sum(const at::Tensor& t) override { return timed([&] { return group_->reduce_scatter_sum(t); }); }
  void do_broadcast(at::Tensor& t, int64_t root) override { timed([&] { group_->broadcast(t, root); return 0; }); }
  at::Tensor do_all_gather_rows(const at::Tensor& t, std::span<const int64_t> rows) override { return timed([&] { return group_->all_gather_rows(t, rows); }); }
  at::Tensor do_reduce_scatter_sum_rows(const at::Tensor& t, std::span<const int64_t> rows) override {
    return timed([&] { return group_->reduce_scatter_sum_rows(t, rows); });
  }
  at::Tensor do_all_to_all(const at::Tensor& t, std::span<const int64_t> sent, std::span<const int64_t> received) override {
    return timed([&] { return group_->all_to_all(t, sent, received); });
  }
  std::unique_ptr<PendingTransfers> do_transfer(std::span<const Transfer> transfers) override {
    struct Timed final : PendingTransfers {
      Timed(std::unique_ptr<PendingTransfers> p, double& s) : pending(std::move(p)), seconds(s) {}
      ~Timed() override { wait(); }
      void wait() override {
        const Clock::time_point start = Clock::now();
        pending->wait();
        seconds += seconds_since(start);
      }
      std::unique_ptr<PendingTransfers> pending;
      double& seconds;
    };
    return std::make_unique<Timed>(group_->transfer(transfers), seconds_);
  }

 private:
  std::shared_ptr<Group> group_;
  double& seconds_;
};

struct Request {
  int64_t steps = 5;
  std::map<std::string, int64_t> axes;
  int64_t of(const std::string& name) const { return axes.contains(name) ? axes.at(name) : 1; }
};

Config config_of(const Request& r, int64_t ranks) {
  Config c;
  ModelConfig& m = c.model;
  m = models::qwen3({.layers = 4, .hidden = 256, .ffn = 768, .heads = 8, .groups = 4, .head_dim = 32, .vocabulary = 8192, .positions = 256});
  if (r.axes.contains("ep")) m = models::with_experts(m, {.count = 8, .chosen = 2, .ffn = 256}), m.moe_router_force_load_balancing = true;
  m.seq_length = 256;
  m.tensor_model_parallel_size = std::max(r.of("tp"), r.of("sp"));
  m.sequence_parallel = r.axes.contains("sp");
  m.pipeline_model_parallel_size = r.of("pp");
  m.context_parallel_size = r.of("cp");
  m.expert_model_parallel_size = r.of("ep");
  c.ddp.use_distributed_optimizer = r.axes.contains("zero");
  c.train.micro_batch_size = 1;
  const int64_t replicas = ranks / (m.tensor_model_parallel_size * m.pipeline_model_parallel_size * m.context_parallel_size);
  c.train.global_batch_size = 4 * replicas;
  c.train.train_iters = r.steps;
  c.optimizer.lr = 1e-4;
  finalize(c, ranks);
  validate(c, ranks);
  return c;
}

double counted(const Groups& groups) {
  std::map<const Group*, double> bytes;  // groups of the same ranks are one
  Groups all = groups;
  for (int64_t k = 0; k < kGroupKinds; ++k) {
    const Group* group = all[static_cast<GroupKind>(k)].get();
    double sum = 0;
    for (size_t c = 0; c < kCollectives; ++c) sum += static_cast<double>(group->traffic(static_cast<Collective>(c)).bytes);
    bytes[group] = sum;
  }
  double total = 0;
  for (const auto& [group, sum] : bytes) total += sum;
  return total;
}

double planned(const Config& config, int64_t ranks, int64_t stage) {
  const ModelLayers layers(config.model);
  Machine machine;
  machine.gpu = find_accelerator("h100");
  const Plan plan = Planner(layers, machine).plan(config, ranks);
  double total = 0;
  for (const VolumeEntry& e : plan.stages[static_cast<size_t>(stage)].volume.entries) total += e.bytes;
  return total;
}

Groups timed_groups(Groups groups, double& seconds) {
  std::map<const Group*, std::shared_ptr<Group>> made;
  for (int64_t k = 0; k < kGroupKinds; ++k) {
    std::shared_ptr<Group>& group = groups[static_cast<GroupKind>(k)];
    if (group->size() == 1) continue;
    std::shared_ptr<Group>& timed = made[group.get()];
    if (!timed) timed = std::make_shared<TimedGroup>(group, seconds);
    group = timed;
  }
  return groups;
}

void bench(const Request& request) {
  at::set_num_threads(1);
  const std::unique_ptr<Ranks> ranks = Ranks::join(launch_environment(), {std::chrono::minutes(2), std::chrono::minutes(2)});
  const Config config = config_of(request, ranks->size());
  double communication = 0;
  const Groups groups = timed_groups(mesh_groups(*ranks, Mesh(mesh_sizes(config.model, ranks->size()))), communication);
  RankModel model(config.model, groups);
  model.initialize(1);
  DataParallel replicas(model.chunks(), groups, {.sharding = config.ddp.use_distributed_optimizer ? Sharding::optimizer : Sharding::nothing});
  std::vector<AdamW::Part> parts;
  for (const DataParallel::Share& share : replicas.shares()) parts.push_back({share.parameter, share.rows, {}});
  AdamW optimizer(parts, {});
  std::vector<Batch> batches(4);
  for (Batch& batch : batches) batch.tokens_BT = batch.labels_BT = at::randint(0, config.model.vocab_size, {1, config.model.seq_length}, at::kLong);
  std::vector<double> steps, waits;
  double volume = 0;
  for (int64_t i = 0; i <= request.steps; ++i) {  // the first is warm-up
    ranks->world().barrier();
    const double before = counted(groups);
    communication = 0;
    const Clock::time_point start = Clock::now();
    model.zero_gradients();
    run_micro_batches(model.chunks(), batches);
    replicas.reduce_gradients();
    optimizer.step(1e-4, 0, 1);
    replicas.gather_values();
    if (i > 0) steps.push_back(seconds_since(start)), waits.push_back(communication);
    volume = counted(groups) - before;
  }
  const auto median = [](std::vector<double> v) { return std::sort(v.begin(), v.end()), v[v.size() / 2]; };
  if (ranks->rank() == 0)
    std::printf("{\"step_seconds\": %.6f, \"communication_seconds\": %.6f, \"bytes\": %.0f, \"planned_bytes\": %.0f}\n", median(steps), median(waits), volume,
                planned(config, ranks->size(), groups.pipeline->rank()));
  ranks->world().barrier();
}

}  // namespace
}  // namespace ponte

int main(int argc, char** argv) {
  try {
    ponte::Request request;
    for (int i = 1; i < argc; ++i) {
      const std::string word = argv[i];
      const size_t at = word.find('=');
      if (at == std::string::npos) request.steps = std::stoll(word);
      else request.axes[word.substr(0, at)] = std::stoll(word.substr(at + 1));
    }
    ponte::bench(request);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "error: %s\n", e.what());
    return 1;
  }
}
