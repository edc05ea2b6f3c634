#include "train/dry_run.h"

#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <set>

#include "base/errors.h"
#include "kernels/meta_memory.h"
#include "kernels/meta_shapes.h"
#include "layout/plan.h"
#include "train/run.h"
#include "train/train_step.h"

namespace ponte {
namespace {

// With fewer micro-batches; the same in all else.
Config shortened(Config c, int64_t ranks) {
  const int64_t replicas = data_parallel_size(c.model, ranks);
  const int64_t count = std::min(num_microbatches(c, ranks), 2 * c.model.pipeline_model_parallel_size);
  c.train.global_batch_size = count * c.train.micro_batch_size * replicas;
  return c;
}

std::vector<MicroBatch> micro_batches_of(const Config& c, int64_t count) {
  MicroBatch one;
  one.batch.tokens_BT = one.batch.labels_BT = at::zeros({c.train.micro_batch_size, c.model.seq_length}, at::kLong);
  return std::vector<MicroBatch>(static_cast<size_t>(count), one);
}

StagePlan plan_of(const Config& config, int64_t ranks, int64_t stage) {
  const ModelLayers layers(config.model);
  Machine machine;  // any: it decides times, which are not looked at
  machine.gpu = find_accelerator("h100");
  return Planner(layers, machine).plan(config, ranks).stages[static_cast<size_t>(stage)];
}

// Where replicas share rows of parameters, the cut lies up to a row beside the even one, in every bucket.
double uneven_elements(const Run& run) {
  int64_t longest = 0;
  for (const Parameter* p : run.model->parameters()) longest = std::max(longest, p->value.numel() / std::max<int64_t>(p->value.size(0), 1));
  return static_cast<double>(longest * run.replicas->bucket_count());
}

// Of memory behind tensors, what several see once. What replicas share out has memory only while it is used.
class Storages {
 public:
  void add(const at::Tensor& tensor) {
    if (tensor.defined() && seen_.insert(tensor.storage().unsafeGetStorageImpl()).second) bytes_ += static_cast<double>(tensor.storage().nbytes());
  }
  double bytes() const { return bytes_; }

 private:
  std::set<const c10::StorageImpl*> seen_;
  double bytes_ = 0;
};

std::vector<DryRunRow> held_rows(const Run& run, const MemoryPlan& plan, DryRun& out) {
  Storages values, gradients;
  for (const Parameter* p : run.model->parameters()) {
    ++out.parameters;
    out.elements += p->value.numel();
    for (const at::Tensor& t : {p->value, p->kept_value.tensor}) values.add(t);
    for (const at::Tensor& t : {p->main_grad, p->kept_gradient.tensor}) gradients.add(t);
  }
  const std::string strategy = sharding_strategy(run.config);
  const bool shares_values = strategy == "optim_grads_params", shares_gradients = shares_values || strategy == "optim_grads";
  const auto row = [&](const char* name, double counted, int64_t planned, bool shared, double element_bytes) {
    const double uneven = shared ? element_bytes * uneven_elements(run) : 0;
    return DryRunRow{.name = name, .counted = counted, .planned = static_cast<double>(planned), .left_out = uneven};
  };
  return {row("weights", values.bytes(), plan.parameters, shares_values, 4), row("gradients", gradients.bytes(), plan.gradients, shares_gradients, 4),
          row("optimizer", static_cast<double>(run.optimizer->state_bytes()), plan.optimizer, strategy != "no_shard", 12)};
}

constexpr std::pair<Collective, const char*> kCollectiveNames[] = {{Collective::all_reduce, "all-reduce"}, {Collective::all_gather, "all-gather"},
                                                                   {Collective::reduce_scatter, "reduce-scatter"}, {Collective::all_to_all, "all-to-all"},
                                                                   {Collective::broadcast, "broadcast"}, {Collective::transfer, "send"}};

// What a plan does not list, at most: sums of losses, valid tokens and norms; what routers tell each other of choices, twice where they are computed again,
// and report at the end of a step, or of each micro-batch where losses are over the step; rows that cannot be cut.
double left_out(const Run& run, const DryRun& dry, const Group* group, Collective collective, double at_end) {
  constexpr double kSums = 256;
  const ModelConfig& c = run.config.model;
  const Groups& g = run.groups;
  const bool over_step = c.moe_router_load_balancing_type == "global_aux_loss", shared = sharding_strategy(run.config) != "no_shard";
  const auto E = static_cast<double>(c.num_moe_experts), micro_batches = static_cast<double>(dry.micro_batches);
  double layers = 0;
  for (const Stage& stage : dry.chunks) layers += static_cast<double>(stage.layers + stage.prediction_layers);
  double out = 0;
  if (collective == Collective::all_reduce) {
    const double reports = over_step ? micro_batches * static_cast<double>(dry.chunks.size()) + 1 : 1;
    out += kSums + 2 * layers * micro_batches * (2 * E + 2) * 4 + reports * static_cast<double>(c.num_layers + c.mtp_num_layers) * (E + 3) * 8;
  }
  if (collective == Collective::all_gather && group == g.world.get()) out += 8 * static_cast<double>(group->size());  // whether all have built their model
  if (collective == Collective::all_gather && group == g.data.get() && over_step)
    out += (2 * layers * E + 1) * micro_batches * 8 * static_cast<double>(group->size());
  if (!shared) return out;
  // Gradients that ranks of one model complete are those this replica keeps, which a plan takes for an even part.
  if (group == g.tensor.get() || group == g.embedding.get()) out += at_end * static_cast<double>(g.data_context_shares->size());
  const bool replicas = group == g.data_context_shares.get() || group == g.expert_data_shares.get();
  const bool copies = group == g.data_context_copies.get() || group == g.expert_data_copies.get();
  if ((replicas && collective == Collective::all_to_all) || copies) out += 4 * uneven_elements(run) * (copies ? 1 : micro_batches);
  return out;
}

struct Planned {
  double bytes = 0, at_end = 0;
};
Planned planned_of(const Volume& volume, const Groups& groups, const Group* group, std::string_view collective) {
  Groups all = groups;
  Planned out;
  for (const VolumeEntry& e : volume.entries) {
    if (all[e.group].get() != group || name_of(e.movement) != collective) continue;
    out.bytes += e.bytes;
    if (e.at_end) out.at_end += e.bytes;
  }
  return out;
}

std::vector<DryRunRow> sent_rows(const Run& run, const Volume& volume, const DryRun& dry) {
  std::vector<DryRunRow> out;
  std::set<const Group*> seen;
  Groups groups = run.groups;
  for (int64_t k = 0; k < kGroupKinds; ++k) {
    const Group* group = groups[static_cast<GroupKind>(k)].get();
    if (group->size() == 1 || !seen.insert(group).second) continue;
    for (const auto& [collective, name] : kCollectiveNames) {
      const Traffic& t = group->traffic(collective);
      const Planned planned = planned_of(volume, groups, group, name);
      if (t.calls == 0 && planned.bytes == 0) continue;
      out.push_back({.name = name_of(static_cast<GroupKind>(k)), .collective = name, .ranks = group->size(), .calls = t.calls,
                     .counted = static_cast<double>(t.bytes), .planned = planned.bytes, .left_out = left_out(run, dry, group, collective, planned.at_end)});
    }
  }
  return out;
}

}  // namespace

bool DryRun::agrees() const {
  const auto good = [](const DryRunRow& row) { return row.agrees(); };
  return std::all_of(held.begin(), held.end(), good) && std::all_of(sent.begin(), sent.end(), good) && peak.agrees();
}

namespace {

// Errors of LibTorch and of ours name what does not fit; this adds whose it is and where.
void step_of(Run& run, const LoneRank& ranks, const DryRun& out) {
  const auto place = [&] {
    const Coordinates& p = out.place;
    return format("rank {} of {} (tensor {}, context {}, data {}, pipeline {}), {}", out.rank, out.ranks, p.tensor, p.context, p.data, p.pipeline,
                  ranks.whereabouts());
  };
  try {
    build_model(run, at::kMeta);
    MetaMemory::counted().restart();
    train_step(run, micro_batches_of(run.config, out.micro_batches));
    run.replicas->finish_values();  // which the next step's forward pass would wait for
  } catch (const c10::Error& error) {
    fail("{}: {}", place(), error.what_without_backtrace());
  } catch (const std::exception& error) {
    fail("{}: {}", place(), error.what());
  }
}

}  // namespace

DryRun dry_run(const Config& config, int64_t ranks, int64_t rank) {
  register_meta_shapes();
  const int64_t before = MetaMemory::counted().live();
  const auto lone = std::make_shared<LoneRank>(rank, ranks);
  Run run;
  run.config = shortened(config, ranks);
  run.ranks = lone;
  run.schedule = schedule_of(run.config);
  run.loss_scaler = LossScaler::constant(1);
  DryRun out{.rank = rank, .ranks = ranks, .calls = lone};
  out.place = Mesh(mesh_sizes(run.config.model, ranks, run.config.dist.use_tp_pp_dp_mapping)).coordinates(rank);
  out.micro_batches = num_microbatches(run.config, ranks);
  step_of(run, *lone, out);
  for (const Model* chunk : run.model->chunks()) out.chunks.push_back(chunk->stage());
  const StagePlan plan = plan_of(run.config, ranks, out.place.pipeline);
  out.held = held_rows(run, plan.memory, out);
  out.sent = sent_rows(run, plan.volume, out);
  out.peak = {.name = "at the fullest moment", .counted = static_cast<double>(MetaMemory::counted().peak() - before),
              .planned = static_cast<double>(plan.memory.total() - plan.memory.reserved), .left_out = static_cast<double>(plan.memory.reserved)};
  return out;
}

}  // namespace ponte
