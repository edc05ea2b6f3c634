// What a plan says that replicas exchange and hold, whatever they divide among themselves, against what they do.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <map>

#include "comm/thread_group.h"
#include "measured_runs.h"
#include "optim/adamw.h"
#include "parallel/data_parallel.h"
#include "parallel/pipeline.h"

namespace ponte::testing {
namespace {

double state_bytes(const DataParallel& replicas) {
  std::vector<AdamW::Part> parts;
  for (const DataParallel::Share& share : replicas.shares()) parts.push_back({share.parameter, share.rows, {share.own}});
  return static_cast<double>(AdamW(parts, {}).state_bytes());
}

struct ReplicaCase {
  const char* name;
  MeshCase mesh;
  bool distributed, narrow;
};

TEST(PlanMeasured, ReplicasExchangeAndShareWhatIsPlanned) {
  const MeshSizes two{.data = 2}, experts{.data = 4, .expert = 2};
  const ReplicaCase cases[] = {{"replicated", {"", dense(), two}, false, false},
                               {"distributed", {"", dense(), two}, true, false},
                               {"distributed bf16", {"", dense(), two, 1, at::kBFloat16}, true, false},
                               {"bf16 gradients", {"", dense(), two, 1, at::kBFloat16}, true, true},
                               {"experts", {"", sparse(), experts, 1, at::kBFloat16}, true, false}};
  for (const ReplicaCase& c : cases) {
    Config config = run_of(c.mesh.config, c.mesh.mesh, 1, c.mesh.type);
    config.ddp.use_distributed_optimizer = c.distributed;
    config.ddp.grad_reduce_in_fp32 = !c.narrow;
    const ModelLayers layers(config.model);
    const Mesh mesh(c.mesh.mesh);
    const Machine machine = any_machine();
    const StagePlan stage = Planner(layers, machine).plan(config, mesh.size()).stages[0];
    run_ranks(mesh, [&](const Groups& given) {
      Groups groups = given;
      Model model(config.model, groups, {.dtype = c.mesh.type});
      Model* const chunks[] = {&model};
      DataParallel replicas(chunks, groups, {.sharding = c.distributed ? Sharding::optimizer : Sharding::nothing,
                                             .reduction = c.narrow ? Reduction::as_parameters : Reduction::as_accumulated});
      replicas.reduce_gradients();
      replicas.gather_values();
      for (const VolumeEntry& e : stage.volume.entries) {
        if (!e.at_end) continue;
        const double counted = counted_bytes(*groups[e.group], e.movement);
        // Whole rows: an all-to-all's part may be off by the longest.
        EXPECT_NEAR(counted, e.bytes, e.movement == Movement::all_to_all ? 4.0 * 352 * 2 : 0)
            << c.name << " " << name_of(e.group) << " " << name_of(e.movement);
      }
      const int64_t row = 352 * 12 * static_cast<int64_t>(replicas.bucket_count());
      EXPECT_NEAR(state_bytes(replicas), static_cast<double>(stage.memory.optimizer),
                  static_cast<double>(c.distributed ? row : 0))
          << c.name;
    });
  }
}

struct ShardedCase {
  const char* name;
  MeshCase mesh;
  const char* strategy;
  bool ahead = false, narrow = false;
  int64_t instances = 1;
  const char* outer = "no_shard";
};

std::vector<ShardedCase> sharded_cases() {
  const MeshSizes two{.data = 2}, four{.data = 4}, experts{.data = 4, .expert = 2}, stages{.data = 2, .pipeline = 2};
  const auto tied = [](ModelConfig& c) { c.share_embeddings_and_output_weights = true; };
  const auto recomputed = [](int64_t layers) { return [layers](ModelConfig& c) { full(c, "uniform", layers); }; };
  const char *gradients = "optim_grads", *parameters = "optim_grads_params";
  return {{"gradients", {"", dense(), two}, gradients},
          {"gradients in bf16", {"", dense(), two, 1, at::kBFloat16}, gradients, false, true},
          {"parameters", {"", dense(), two}, parameters},
          {"parameters ahead", {"", dense(), two, 1, at::kBFloat16}, parameters, true},
          {"parameters, tied", {"", with(dense(), tied), two}, parameters},
          {"parameters, tied, ahead", {"", with(dense(), tied), two}, parameters, true},
          {"parameters, recompute", {"", with(dense(), recomputed(1)), two}, parameters},
          {"parameters, recompute, ahead", {"", with(dense(), recomputed(2)), two}, parameters, true},
          {"parameters of experts", {"", sparse(), experts, 1, at::kBFloat16}, parameters, true},
          {"parameters in stages", {"", dense(), stages}, parameters, true},
          {"parameters in tied stages", {"", with(dense(), tied), stages, 3}, parameters, true},
          {"parameters of a hybrid model", {"", hybrid(), two, 1, at::kBFloat16}, parameters},
          {"copies", {"", dense(), four, 1, at::kBFloat16}, parameters, false, false, 2},
          {"copies that share the optimizer", {"", dense(), four, 1, at::kBFloat16}, parameters, false, false, 2, "optim"},
          {"copies of gradients", {"", sparse(), {.data = 8, .expert = 2}}, gradients, true, false, 2}};
}

TEST(PlanMeasured, ShardedReplicasExchangeAndHoldWhatIsPlanned) {
  for (const ShardedCase& c : sharded_cases()) {
    Config config = run_of(c.mesh.config, c.mesh.mesh, c.mesh.chunks, c.mesh.type);
    config.train.global_batch_size *= 2;
    config.ddp.use_megatron_fsdp = true;
    config.ddp.data_parallel_sharding_strategy = c.strategy;
    config.ddp.outer_dp_sharding_strategy = c.outer;
    config.ddp.num_distributed_optimizer_instances = c.instances;
    config.ddp.overlap_param_gather = config.ddp.overlap_grad_reduce = c.ahead;
    config.ddp.grad_reduce_in_fp32 = !c.narrow;
    const ModelLayers layers(config.model);
    MeshSizes sizes = c.mesh.mesh;
    sizes.optimizer_instances = c.instances;
    const Mesh mesh(sizes);
    const Machine machine = any_machine();
    const Plan plan = Planner(layers, machine).plan(config, mesh.size());
    const bool parameters = std::string(c.strategy) == "optim_grads_params";
    run_ranks(mesh, [&](const Groups& given) {
      Groups groups = given;
      std::vector<Model> chunks = chunks_of(c.mesh, config, groups);
      std::vector<Model*> pointers;
      for (Model& model : chunks) pointers.push_back(&model);
      const Overlap overlap = c.ahead ? Overlap::with_compute : Overlap::none;
      DataParallel replicas(pointers, groups, {.sharding = parameters ? Sharding::parameters : Sharding::gradients,
                                               .reduction = c.narrow ? Reduction::as_parameters : Reduction::as_accumulated,
                                               .copies = std::string(c.outer) == "optim" ? Copies::share_optimizer : Copies::keep_all,
                                               .gradients = overlap, .values = overlap});
      std::vector<Batch> batches(static_cast<size_t>(plan.micro_batches));
      for (Batch& batch : batches) batch.tokens_BT = batch.labels_BT = at::randint(0, 97, {2, config.model.seq_length}, at::kLong);
      for (Model* model : pointers) model->initialize(1), model->zero_gradients();
      run_micro_batches(pointers, batches);
      replicas.reduce_gradients();
      replicas.gather_values();
      replicas.finish_values();  // the next forward pass would begin what is not under way yet
      const StagePlan& stage = plan.stages[static_cast<size_t>(groups.pipeline->rank())];
      std::map<std::pair<GroupKind, Movement>, double> wanted;
      for (const VolumeEntry& e : stage.volume.entries) wanted[{e.group, e.movement}] += e.bytes;
      static constexpr GroupKind kKinds[] = {GroupKind::data_context_shares, GroupKind::data_context_copies, GroupKind::expert_data_shares,
                                             GroupKind::expert_data_copies};
      const auto planned_as = [&](GroupKind kind) {
        return c.instances > 1 ? kind : kind == GroupKind::data_context_shares ? GroupKind::data_context : GroupKind::expert_data;
      };
      for (const GroupKind kind : kKinds) {
        if (groups[kind]->size() == 1) continue;
        for (const Movement movement : {Movement::all_gather, Movement::reduce_scatter, Movement::all_to_all}) {
          const double counted = counted_bytes(*groups[kind], movement);
          double planned = 0;  // groups of the same ranks are one
          for (const GroupKind other : kKinds)
            if (groups[other] == groups[kind]) planned += wanted[{planned_as(other), movement}];
          // Whole rows: where a share's length counts it may be off by the longest row of each unit.
          const bool by_share = movement == Movement::all_to_all || kind == GroupKind::data_context_copies || kind == GroupKind::expert_data_copies;
          const double row = by_share ? 352.0 * 4 * static_cast<double>(replicas.bucket_count() * plan.micro_batches) : 0;
          EXPECT_NEAR(counted, planned, row) << c.name << " " << name_of(kind) << " " << name_of(movement);
        }
      }
      int64_t values = 0, gradients = 0;
      for (Model* model : pointers)
        for (const Parameter* p : model->parameters()) {
          values += static_cast<int64_t>(p->kept_value.tensor.nbytes());
          gradients += p->kept_gradient.tensor.defined() ? static_cast<int64_t>(p->kept_gradient.tensor.nbytes()) : 0;
        }
      const double rows = 352.0 * static_cast<double>(replicas.bucket_count());
      EXPECT_NEAR(static_cast<double>(values), static_cast<double>(stage.memory.parameters), parameters ? 4 * rows : 0) << c.name;
      EXPECT_NEAR(static_cast<double>(gradients), static_cast<double>(stage.memory.gradients), 4 * rows) << c.name;
      EXPECT_NEAR(state_bytes(replicas), static_cast<double>(stage.memory.optimizer), 12 * rows) << c.name;
    });
  }
}

}  // namespace
}  // namespace ponte::testing
