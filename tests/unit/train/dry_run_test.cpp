// One rank's step on tensors without memory: the first, a middle and the last stage of the largest published layouts, and every axis of small ones. What is
// held and handed over is what the plan says.
#include "train/dry_run.h"

#include <gtest/gtest.h>

#include <fstream>
#include <set>

#include "base/errors.h"
#include "recipes/resolve.h"

namespace ponte {
namespace {

Config config_of(const std::string& recipe, int64_t ranks, const std::vector<std::string>& settings) {
  RunRequest request;
  request.recipe = recipe;
  request.overrides = settings;
  request.world_size = ranks;
  Config out = resolve_run(request).config;
  validate(out, ranks);
  return out;
}

struct Scale {
  const char* name;
  const char* recipe;
  int64_t ranks;
  std::vector<std::string> settings;
};

void PrintTo(const Scale& s, std::ostream* out) { *out << s.name; }

class DryRuns : public testing::TestWithParam<Scale> {};

TEST_P(DryRuns, HoldsAndSendsWhatThePlanSays) {
  const Scale& s = GetParam();
  const Config config = config_of(s.recipe, s.ranks, s.settings);
  const int64_t stages = config.model.pipeline_model_parallel_size, of_stage = s.ranks / stages;
  for (const int64_t stage : std::set<int64_t>{0, stages / 2, stages - 1}) {
    const DryRun run = dry_run(config, s.ranks, stage * of_stage + 3 % of_stage);
    EXPECT_EQ(run.place.pipeline, stage);
    EXPECT_EQ(run.held.size(), 3u);
    for (const DryRunRow& row : run.held) {
      EXPECT_GT(row.counted, 0) << row.name;
      EXPECT_NEAR(row.counted, row.planned, row.left_out) << "stage " << stage << ", " << row.name;
    }
    EXPECT_EQ(run.sent.empty(), s.ranks == 1);
    for (const DryRunRow& row : run.sent) EXPECT_NEAR(row.counted, row.planned, row.left_out) << "stage " << stage << ", " << row.name << " " << row.collective;
  }
}

const std::vector<std::string> kDense = {"model.num_layers=4", "train.global_batch_size=16", "model.seq_length=256", "train.train_iters=10",
                                         "scheduler.lr_warmup_iters=1", "model.vocab_size=4096"};

std::vector<std::string> with(std::vector<std::string> settings, const std::vector<std::string>& more) {
  settings.insert(settings.end(), more.begin(), more.end());
  return settings;
}
std::vector<std::string> fsdp(const std::string& strategy) {
  return {"ddp.use_megatron_fsdp=true", "ddp.data_parallel_sharding_strategy=" + strategy, "checkpoint.ckpt_format=fsdp_dtensor"};
}
Scale dense(const char* name, int64_t ranks, const std::vector<std::string>& more) { return {name, "qwen3_600m_pretrain_config", ranks, with(kDense, more)}; }
Scale sparse(const char* name, int64_t ranks, const std::vector<std::string>& more) {
  return {name, "qwen3_30b_a3b_pretrain_config", ranks,
          with(with(kDense, {"model.tensor_model_parallel_size=1", "model.pipeline_model_parallel_size=1", "model.expert_model_parallel_size=1",
                             "model.sequence_parallel=false", "model.context_parallel_size=1", "model.recompute_granularity=null",
                             "model.recompute_method=null",
                             "model.num_moe_experts=16", "model.virtual_pipeline_model_parallel_size=null"}), more)};
}
Scale hybrid(const char* name, int64_t ranks, const std::vector<std::string>& more) {
  Scale out = sparse(name, ranks, with({"model.expert_tensor_parallel_size=1", "model.layer_types=[linear,linear,linear,full]"}, more));
  out.recipe = "qwen3_next_80b_a3b_pretrain_config";
  return out;
}

const Scale kScales[] = {
    {"Qwen3-235B-A22B, TP2 PP8 EP32", "qwen3_235b_a22b_pretrain_config", 512,
     {"model.tensor_model_parallel_size=2", "model.pipeline_model_parallel_size=8", "model.expert_model_parallel_size=32", "model.context_parallel_size=1",
      "model.sequence_parallel=true", "model.account_for_embedding_in_pipeline_split=true", "model.account_for_loss_in_pipeline_split=true",
      "train.global_batch_size=1024", "train.micro_batch_size=1"}},
    {"Qwen3-Next-80B-A3B, TP2 PP8 EP16", "qwen3_next_80b_a3b_pretrain_config", 256,
     {"model.tensor_model_parallel_size=2", "model.pipeline_model_parallel_size=8", "model.expert_model_parallel_size=16", "model.sequence_parallel=true",
      "train.global_batch_size=512", "train.micro_batch_size=1"}},
    dense("one rank", 1, {}),
    dense("data 4", 4, {}),
    dense("data 4, every optimizer whole", 4, {"ddp.use_distributed_optimizer=false", "optimizer.use_distributed_optimizer=false"}),
    dense("data 4, narrow gradients", 4, {"mixed_precision.grad_reduce_in_fp32=false"}),
    dense("optim_grads", 4, fsdp("optim_grads")),
    dense("optim_grads, tensor 2, narrow gradients", 8,
          with(fsdp("optim_grads"), {"model.tensor_model_parallel_size=2", "mixed_precision.grad_reduce_in_fp32=false"})),
    dense("optim_grads_params", 4, fsdp("optim_grads_params")),
    dense("optim_grads_params, tensor 2, recompute", 8,
          with(fsdp("optim_grads_params"), {"model.tensor_model_parallel_size=2", "model.recompute_granularity=full", "model.recompute_method=uniform",
                                            "model.recompute_num_layers=1"})),
    dense("optim_grads_params, two copies", 8, with(fsdp("optim_grads_params"), {"ddp.num_distributed_optimizer_instances=2"})),
    dense("optim_grads_params, two copies that share the optimizer", 8,
          with(fsdp("optim_grads_params"), {"ddp.num_distributed_optimizer_instances=2", "ddp.outer_dp_sharding_strategy=optim"})),
    dense("tensor 2", 2, {"model.tensor_model_parallel_size=2"}),
    dense("tensor 4 with sequence shards, full recompute", 4,
          {"model.tensor_model_parallel_size=4", "model.sequence_parallel=true", "model.recompute_granularity=full", "model.recompute_method=uniform"}),
    dense("pipeline 2 x 2", 4, {"model.pipeline_model_parallel_size=2", "model.num_layers_per_virtual_pipeline_stage=1"}),
    dense("context 2, ring", 4, {"model.context_parallel_size=2", "model.cp_comm_type=p2p"}),
    dense("context 2, gathering", 2, {"model.context_parallel_size=2", "model.cp_comm_type=all_gather"}),
    dense("context 4, exchanging", 4, {"model.context_parallel_size=4", "model.cp_comm_type=a2a"}),
    dense("context 4 in levels", 8, {"model.context_parallel_size=4", "model.cp_comm_type=a2a+p2p", "model.hierarchical_context_parallel_sizes=[2,2]"}),
    sparse("all experts", 1, {}),
    sparse("expert 2, optim_grads_params", 8, with(fsdp("optim_grads_params"), {"model.expert_model_parallel_size=2"})),
    sparse("expert 4", 4, {"model.expert_model_parallel_size=4"}),
    sparse("expert 2, tensor 2 without sequence shards", 4,
           {"model.tensor_model_parallel_size=2", "model.expert_model_parallel_size=2", "model.expert_tensor_parallel_size=1"}),
    sparse("expert 2 x 2", 4, {"model.expert_model_parallel_size=2", "model.expert_tensor_parallel_size=2", "model.tensor_model_parallel_size=2",
                               "model.sequence_parallel=true"}),
    sparse("expert 4, tokens gathered", 4, {"model.expert_model_parallel_size=4", "model.moe_token_dispatcher_type=allgather"}),
    sparse("losses of the step, z loss", 4, {"model.expert_model_parallel_size=2", "model.moe_router_load_balancing_type=global_aux_loss",
                                             "model.moe_aux_loss_coeff=0.001", "model.moe_z_loss_coeff=0.001"}),
    sparse("capacity", 2, {"model.expert_model_parallel_size=2", "model.moe_expert_capacity_factor=1.0"}),
    hybrid("hybrid, tensor 2", 2, {"model.tensor_model_parallel_size=2", "model.sequence_parallel=true"}),
    hybrid("hybrid, context 2 by chunks", 2, {"model.context_parallel_size=2", "model.cp_comm_type=p2p"}),
    hybrid("hybrid, context 2 by heads", 2, {"model.context_parallel_size=2", "model.cp_comm_type=a2a"}),
};

INSTANTIATE_TEST_SUITE_P(Table, DryRuns, testing::ValuesIn(kScales));

// A stage of the largest has some 20 GB of weights and gradients.
TEST(DryRun, TakesLittleMemory) {
  std::ifstream status("/proc/self/status");
  int64_t peak_kb = 0;
  for (std::string word; status >> word;)
    if (word == "VmHWM:") status >> peak_kb;
  EXPECT_GT(peak_kb, 0);
  EXPECT_LT(peak_kb, 2'000'000);
}

TEST(DryRun, WantsARankThatIsThere) {
  const Config config = config_of("qwen3_600m_pretrain_config", 2, with(kDense, {"model.tensor_model_parallel_size=2"}));
  EXPECT_THROW(dry_run(config, 2, 2), UserError);
  EXPECT_THROW(dry_run(config, 2, -1), UserError);
}

}  // namespace
}  // namespace ponte
