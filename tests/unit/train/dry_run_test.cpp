// Steps of single ranks on tensors without memory: stages of the largest published layouts, and every rank of small ones over every axis. What is held and
// handed over is what the plan says, and what ranks ask of one another fits.
#include "train/dry_run.h"

#include <gtest/gtest.h>

#include <fstream>

#include "base/errors.h"
#include "comm/call_comparison.h"
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

enum class Stages { all, three };

struct Scale {
  const char* name;
  const char* recipe;
  int64_t ranks;
  std::vector<std::string> settings;
  Stages which = Stages::all;
};

void PrintTo(const Scale& s, std::ostream* out) { *out << s.name; }

class DryRuns : public testing::TestWithParam<Scale> {};

// Small meshes whole; of large ones a rank of every stage, or of the first, a middle and the last where a stage takes seconds.
std::vector<int64_t> ranks_of(const Scale& s, int64_t stages) {
  std::vector<int64_t> out;
  for (int64_t rank = 0; s.ranks <= 8 && rank < s.ranks; ++rank) out.push_back(rank);
  if (!out.empty()) return out;
  for (int64_t stage = 0; stage < stages; ++stage)
    if (s.which == Stages::all || stage == 0 || stage == stages / 2 || stage == stages - 1) out.push_back(stage * (s.ranks / stages) + 3);
  return out;
}

TEST_P(DryRuns, HoldsAndSendsWhatThePlanSays) {
  const Scale& s = GetParam();
  const Config config = config_of(s.recipe, s.ranks, s.settings);
  const int64_t stages = config.model.pipeline_model_parallel_size;
  CallComparison calls;
  for (const int64_t rank : ranks_of(s, stages)) {
    const DryRun run = dry_run(config, s.ranks, rank);
    EXPECT_EQ(run.place.pipeline, rank / (s.ranks / stages));
    EXPECT_EQ(run.held.size(), 3u);
    for (const DryRunRow& row : run.held) {
      EXPECT_GT(row.counted, 0) << row.name;
      EXPECT_NEAR(row.counted, row.planned, row.left_out) << "rank " << rank << ", " << row.name;
    }
    EXPECT_EQ(run.sent.empty(), s.ranks == 1);
    for (const DryRunRow& row : run.sent) EXPECT_NEAR(row.counted, row.planned, row.left_out) << "rank " << rank << ", " << row.name << " " << row.collective;
    if (s.ranks > 8) {  // of small models, what a card's operations take for a moment is the most of it
      EXPECT_NEAR(run.peak.planned / run.peak.counted, 0.97, 0.03) << "rank " << rank;
    }
    EXPECT_TRUE(run.agrees());
    calls.add(*run.calls);
  }
  EXPECT_EQ(calls.differences(), std::vector<std::string>());
  EXPECT_EQ(calls.compared() > 0, s.ranks > 1);
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

const Scale kLarge[] = {
    {"Qwen3-235B-A22B, TP2 PP8 EP32", "qwen3_235b_a22b_pretrain_config", 512,
     {"model.tensor_model_parallel_size=2", "model.pipeline_model_parallel_size=8", "model.expert_model_parallel_size=32", "model.context_parallel_size=1",
      "model.sequence_parallel=true", "model.account_for_embedding_in_pipeline_split=true", "model.account_for_loss_in_pipeline_split=true",
      "train.global_batch_size=1024", "train.micro_batch_size=1"}},
    {"Qwen3-Next-80B-A3B, TP2 PP8 EP16", "qwen3_next_80b_a3b_pretrain_config", 256,
     {"model.tensor_model_parallel_size=2", "model.pipeline_model_parallel_size=8", "model.expert_model_parallel_size=16", "model.sequence_parallel=true",
      "train.global_batch_size=512", "train.micro_batch_size=1"}, Stages::three},
    // Replicas that overlap what they exchange: as much as all gradients and all values is never on its way at once.
    {"Qwen3-30B-A3B, TP4 PP2 EP4, overlaps", "qwen3_30b_a3b_pretrain_8gpu_h100_bf16_config", 16,
     {"ddp.overlap_grad_reduce=true", "ddp.overlap_param_gather=true"}},
};

const Scale kSmall[] = {
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

INSTANTIATE_TEST_SUITE_P(Large, DryRuns, testing::ValuesIn(kLarge));
INSTANTIATE_TEST_SUITE_P(Small, DryRuns, testing::ValuesIn(kSmall));

// The first stage of the largest holds 54 GB.
TEST(DryRun, TakesLittleMemory) {
  const Scale& s = kLarge[0];
  EXPECT_GT(dry_run(config_of(s.recipe, s.ranks, s.settings), s.ranks, 0).peak.counted, 50e9);
  std::ifstream status("/proc/self/status");
  int64_t peak_kb = 0;
  for (std::string word; status >> word;)
    if (word == "VmHWM:") status >> peak_kb;
  EXPECT_GT(peak_kb, 0);
  EXPECT_LT(peak_kb, 1'000'000);
}

Config two_ranks(const std::vector<std::string>& more = {}) {
  return config_of("qwen3_600m_pretrain_config", 2, with(with(kDense, {"model.tensor_model_parallel_size=2", "model.sequence_parallel=true"}), more));
}

TEST(DryRun, WantsARankThatIsThere) {
  EXPECT_THROW(dry_run(two_ranks(), 2, 2), UserError);
  EXPECT_THROW(dry_run(two_ranks(), 2, -1), UserError);
}

std::string error_of(const Config& config, int64_t ranks, int64_t rank) {
  try {
    dry_run(config, ranks, rank);
  } catch (const UserError& error) {
    return error.what();
  }
  return "";
}

// A model's widths are what its rules say; a row's are what the batch says.
TEST(DryRun, SaysWhereAShapeDoesNotFit) {
  Config config = two_ranks({"train.micro_batch_size=1"});
  config.model.seq_length = 255;  // as no valid configuration has
  const std::string error = error_of(config, 2, 1);
  EXPECT_TRUE(error.starts_with("rank 1 of 2 (tensor 1, context 0, data 0, pipeline 0), forward and backward of iteration 1, after ")) << error;
}

TEST(DryRun, RanksThatDoNotFitAreNamed) {
  CallComparison calls;
  calls.add(*dry_run(two_ranks(), 2, 0).calls);
  calls.add(*dry_run(two_ranks({"model.seq_length=128"}), 2, 1).calls);
  ASSERT_EQ(calls.differences().size(), 1u);
  const std::string& text = calls.differences()[0];
  EXPECT_NE(text.find("rank 0 asks reduce-scatter of BFloat16 [512, 1024], rank 1 reduce-scatter of BFloat16 [256, 1024]"), std::string::npos) << text;
}

TEST(DryRun, MessagesThatDoNotFitAreNamed) {
  const std::vector<std::string> two = {"model.tensor_model_parallel_size=1", "model.sequence_parallel=false", "model.pipeline_model_parallel_size=2"};
  CallComparison calls;
  calls.add(*dry_run(two_ranks(two), 2, 0).calls);
  calls.add(*dry_run(two_ranks(with(two, {"model.seq_length=128"})), 2, 1).calls);
  ASSERT_EQ(calls.differences().size(), 2u);  // forward and backward
  const std::string& text = calls.differences()[0];
  EXPECT_TRUE(text.ends_with("message 1 from rank 0 to rank 1: sent is transfer of BFloat16 [512, 1024], expected transfer of BFloat16 [256, 1024]")) << text;
}

}  // namespace
}  // namespace ponte
