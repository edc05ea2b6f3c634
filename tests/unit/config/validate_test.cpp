// Each check between keys: one configuration that passes, and per row one change that must be named.
#include <gtest/gtest.h>

#include "base/errors.h"
#include "config/config.h"
#include "config/document.h"

namespace ponte {
namespace {

ConfigDraft good() {
  ConfigDraft draft;
  for (const char* o : {"model.num_layers=4", "model.hidden_size=64", "model.ffn_hidden_size=128", "model.num_attention_heads=8",
                        "model.num_query_groups=4", "model.kv_channels=8", "model.vocab_size=512", "model.seq_length=32", "train.train_iters=10",
                        "train.global_batch_size=8", "optimizer.lr=1e-3"})
    apply_override(draft, o, "test");
  return draft;
}

std::string refusal(const std::vector<std::string>& changes, int64_t world_size) {
  ConfigDraft draft = good();
  for (const std::string& change : changes) apply_override(draft, change, "test");
  try {
    finalize(draft.config, 8);
    validate(draft.config, world_size);
  } catch (const UserError& error) {
    return error.what();
  }
  return "";
}

TEST(Validate, AcceptsAWholeConfiguration) {
  EXPECT_EQ(refusal({}, 1), "");
  EXPECT_EQ(refusal({}, 8), "");
  EXPECT_EQ(refusal({"model.tensor_model_parallel_size=8"}, 8), "");  // more ranks than key/value heads
  EXPECT_EQ(refusal({"model.pipeline_model_parallel_size=2", "model.num_layers_per_virtual_pipeline_stage=1"}, 8), "");
  EXPECT_EQ(refusal({"model.context_parallel_size=4", "model.cp_comm_type=a2a+p2p", "model.hierarchical_context_parallel_sizes=[2, 2]"}, 8), "");
  EXPECT_EQ(refusal({"model.pipeline_model_parallel_size=2", "model.num_layers=3", "model.account_for_embedding_in_pipeline_split=true"}, 8), "");
}

TEST(Validate, NamesEveryContradiction) {
  struct Row {
    std::vector<std::string> changes;
    int64_t world_size;
    const char* wanted;
  };
  const Row rows[] = {
      {{"model.num_layers=0"}, 1, "the model has no layers"},
      {{"model.hidden_size=0"}, 1, "model.hidden_size is 0"},
      {{"model.num_query_groups=3"}, 1, "model.num_attention_heads 8 is not a multiple of model.num_query_groups 3"},
      {{"model.kv_channels=7"}, 1, "model.kv_channels is 7"},
      {{"model.rotary_base=0"}, 1, "model.rotary_base is 0"},
      {{"model.rotary_percent=1.5"}, 1, "model.rotary_percent is 1.5"},
      {{"model.rope_scaling_type=linear", "model.rope_scaling_factor=-2"}, 1, "model.rope_scaling_factor is -2"},
      {{"model.rope_scaling_type=yarn", "model.rope_scaling_factor=4"}, 1, "model.rope_scaling_type=yarn wants model.original_max_position_embeddings"},
      {{"model.hidden_dropout=1.5"}, 1, "model.hidden_dropout is 1.5"},
      {{"model.layer_types=[full_attention]"}, 1, "model.layer_types lists 1 layers of 4"},
      {{"model.moe_layer_freq=[1]"}, 1, "model.moe_layer_freq lists 1 layers of 4"},
      {{"model.num_moe_experts=4", "model.moe_router_topk=5"}, 1, "model.moe_router_topk is 5, with 4 experts"},
      {{"model.num_moe_experts=8", "model.moe_router_topk=2", "model.moe_router_num_groups=8", "model.moe_router_group_topk=1"},
       1,
       "model.moe_router_group_topk is 1: 2 experts for each token are not in 1 groups of 1"},
      {{"model.num_moe_experts=8", "model.moe_router_topk=2", "model.moe_router_num_groups=3", "model.moe_router_group_topk=1"},
       1,
       "model.moe_router_num_groups is 3, which 8 experts do not divide into"},
      {{"model.num_moe_experts=8", "model.moe_router_topk=2", "model.moe_router_group_topk=1"}, 1, "model.moe_router_num_groups is 0"},
      {{"model.num_moe_experts=8", "model.moe_router_topk=4", "model.moe_router_num_groups=4", "model.moe_router_group_topk=3"},
       1,
       "model.moe_router_group_topk is 3, wanted up to 4 groups over which 4 experts for each token divide"},
      {{"model.num_moe_experts=4", "model.moe_router_topk=2", "model.moe_router_topk_scaling_factor=0"}, 1, "it must be positive"},
      {{"model.num_moe_experts=4", "model.moe_router_topk=2", "model.moe_expert_capacity_factor=0"}, 1, "drops every token"},
      {{"model.num_moe_experts=4", "model.moe_router_topk=2", "model.expert_model_parallel_size=3"},
       3,
       "model.num_moe_experts 4 is not a multiple"},
      {{"model.bf16=true", "model.fp16=true"}, 1, "both true"},
      {{"model.bf16=true"}, 1, "model.params_dtype is torch.float32"},
      {{"model.recompute_granularity=full"}, 1, "model.recompute_method"},
      {{"model.recompute_method=uniform"}, 1, "model.recompute_granularity=full"},
      {{"model.recompute_granularity=full", "model.recompute_method=block", "model.recompute_num_layers=9"},
       1,
       "model.recompute_num_layers is 9, of 4 layers"},
      {{"model.recompute_modules=[core]"}, 1, "no module core"},
      {{"model.moe_pad_expert_input_to_capacity=true"}, 1, "wants model.moe_expert_capacity_factor"},
      {{"model.tensor_model_parallel_size=3"}, 3, "model.num_attention_heads 8 is not a multiple of tensor_model_parallel_size 3"},
      {{"model.num_attention_heads=24", "model.num_query_groups=3", "model.tensor_model_parallel_size=2"}, 2, "neither divides the other"},
      {{"model.linear_num_key_heads=3", "model.linear_num_value_heads=6", "model.tensor_model_parallel_size=2"}, 2,
       "model.linear_num_key_heads 3 is not a multiple"},
      {{"model.pipeline_model_parallel_size=2"}, 3, "3 ranks do not divide"},
      {{"model.expert_model_parallel_size=2"}, 8, "the model has no experts"},
      {{"model.pipeline_model_parallel_size=8"}, 8, "layers (embedding and loss counted where asked) 4 is not a multiple of stages x chunks 8"},
      {{"model.pipeline_model_parallel_size=2", "model.num_layers_per_virtual_pipeline_stage=3"}, 2,
       "layers of a stage 2 is not a multiple of model.num_layers_per_virtual_pipeline_stage 3"},
      {{"model.pipeline_model_parallel_size=2", "model.num_layers_per_virtual_pipeline_stage=2", "model.virtual_pipeline_model_parallel_size=2"}, 2,
       "stage 2 makes 1 chunks of the 2 layers of a stage, model.virtual_pipeline_model_parallel_size is 2"},
      {{"model.pipeline_model_parallel_size=2", "model.num_layers_per_virtual_pipeline_stage=1", "model.pipeline_model_parallel_layout='Et|t|t|tL'"}, 2,
       "given besides model.pipeline_model_parallel_layout"},
      {{"model.pipeline_model_parallel_size=2", "model.num_layers_per_virtual_pipeline_stage=1", "model.num_layers_in_first_pipeline_stage=2"}, 2,
       "wants stages of equal length"},
      {{"model.pipeline_model_parallel_size=2", "model.num_layers_per_virtual_pipeline_stage=-1"}, 2, "model.num_layers_per_virtual_pipeline_stage is -1"},
      {{"model.num_layers_per_virtual_pipeline_stage=2"}, 1, "wants model.pipeline_model_parallel_size > 1"},
      {{"model.context_parallel_size=4", "model.cp_comm_type=a2a+p2p"}, 4, "whose product is context_parallel_size 4, not []"},
      {{"model.context_parallel_size=4", "model.cp_comm_type=a2a+p2p", "model.hierarchical_context_parallel_sizes=[2, 4]"}, 4, "4, not [2, 4]"},
      {{"model.context_parallel_size=4", "model.cp_comm_type=a2a+p2p", "model.hierarchical_context_parallel_sizes=[1, 2, 2]"}, 4, "4, not [1, 2, 2]"},
      {{"model.context_parallel_size=2", "model.hierarchical_context_parallel_sizes=[2, 2]"}, 2, "2, not [2, 2]"},
      {{"model.context_parallel_size=2", "model.num_query_groups=1", "model.cp_comm_type=a2a"}, 2, "1 query groups of a rank do not divide over 2"},
      {{"model.context_parallel_size=4", "model.num_query_groups=2", "model.cp_comm_type=a2a+p2p", "model.hierarchical_context_parallel_sizes=[4, 1]"}, 4,
       "model.cp_comm_type=a2a+p2p: the 2 query groups"},
      {{"model.virtual_pipeline_model_parallel_size=2"}, 1, "wants model.pipeline_model_parallel_size > 1"},
      {{"model.pipeline_model_parallel_size=2", "model.virtual_pipeline_model_parallel_size=2", "train.global_batch_size=3",
        "validation.eval_global_batch_size=3"}, 2, "interleaved pipeline stages 3 is not a multiple of model.pipeline_model_parallel_size 2"},
      {{"model.sequence_parallel=true"}, 1, "model.sequence_parallel wants"},
      {{"model.context_parallel_size=8", "model.seq_length=40"}, 8, "model.seq_length 40 is not a multiple"},
      {{"dist.use_megatron_fsdp=true", "dist.use_torch_fsdp2=true"}, 1, "dist.use_torch_fsdp2 are both true"},
      {{"ddp.outer_dp_sharding_strategy=optim"}, 1, "ddp.data_parallel_sharding_strategy=optim_grads_params, here no_shard"},
      {{"ddp.num_distributed_optimizer_instances=2"}, 3, "is not a multiple of ddp.num_distributed_optimizer_instances 2"},
      {{"train.micro_batch_size=3"}, 1, "train.global_batch_size 8 is not a multiple of train.micro_batch_size 3 x 1 replicas = 3"},
      {{"validation.eval_global_batch_size=3", "validation.eval_micro_batch_size=2"}, 1, "validation.eval_global_batch_size 3"},
      {{"train.train_iters=null"}, 1, "how long to train is missing"},
      {{"train.train_samples=1000"}, 1, "train.train_iters 10 and train.train_samples 1000"},
      {{"train.train_iters=null", "train.num_epochs=1"}, 1, "dataset.kind=sft"},
      {{"train.rampup_batch_size=[1, 2]"}, 1, "not 2 numbers"},
      {{"train.rampup_batch_size=[2, 4, 100]"}, 1, "6 is not a multiple of the increment 4"},
      {{"train.rampup_batch_size=[8, 4, 100]"}, 1, "starts at 8, train.global_batch_size is 8"},
      {{"train.rampup_batch_size=[2, 2, 0]"}, 1, "start, increment and samples must be positive"},
      {{"train.rampup_batch_size=[2, 2, 100]", "train.train_iters=null", "train.train_samples=80"}, 1, "goes with train.train_iters"},
      {{"train.rampup_batch_size=[2, 2, 100]", "train.micro_batch_size=4"}, 1, "has 2 sequences, for micro_batch_size x replicas = 4; train.decrease"},
      {{"train.rampup_batch_size=[2, 2, 100]", "train.micro_batch_size=4", "train.decrease_batch_size_if_needed=true"}, 1, "has 2 sequences"},
      {{"train.rampup_batch_size=[1, 1, 100]", "model.pipeline_model_parallel_size=2", "model.virtual_pipeline_model_parallel_size=2"}, 2,
       "has 1 micro-batches, with interleaved pipeline stages they must be a multiple of 2"},
      {{"validation.eval_iters=-1"}, 1, "validation.eval_iters is -1"},
      {{"optimizer.lr=0"}, 1, "optimizer.lr is 0"},
      {{"optimizer.min_lr=1"}, 1, "optimizer.min_lr 1"},
      {{"optimizer.adam_beta2=1"}, 1, "optimizer.adam_beta2 is 1"},
      {{"optimizer.adam_eps=0"}, 1, "optimizer.adam_eps is 0"},
      {{"optimizer.clip_grad=-1"}, 1, "optimizer.clip_grad is -1"},
      {{"optimizer.weight_decay=-1"}, 1, "optimizer.weight_decay is -1"},
      {{"scheduler.lr_warmup_fraction=0.1", "scheduler.lr_warmup_iters=3"}, 1, "besides scheduler.lr_warmup_iters"},
      {{"scheduler.lr_warmup_fraction=2"}, 1, "scheduler.lr_warmup_fraction is 2"},
      {{"scheduler.lr_warmup_samples=3", "scheduler.lr_decay_samples=5"}, 1, "scheduler"},
      {{"scheduler.start_weight_decay=0.5", "scheduler.end_weight_decay=0.1"}, 1, "the end must be the larger"},
      {{"scheduler.start_weight_decay=0.1", "scheduler.end_weight_decay=0.5"}, 1, "weight_decay_incr_style=constant"},
      {{"scheduler.override_opt_param_scheduler=true", "scheduler.use_checkpoint_opt_param_scheduler=true"},
       1,
       "use_checkpoint_opt_param_scheduler are both true"},
      {{"model.max_position_embeddings=31"}, 1, "model.seq_length 32 is longer than the 31 positions"},
      {{"dataset.seq_length=16"}, 1, "dataset.seq_length 16 and model.seq_length 32 differ"},
      {{"rng.seed=-1"}, 1, "rng.seed is -1"},
      {{"dataset.random_seed=4294967296"}, 1, "dataset.random_seed is 4294967296, it must be from 0 to 4294967295"},
      {{"dataset.data_path=a", "dataset.train_data_path=b"}, 1, "besides a blend per split"},
      {{"dataset.train_data_path=b", "dataset.split='1,1,1'"}, 1, "dataset.split has no meaning"},
      {{"checkpoint.save_hf=true"}, 1, "checkpoint.save_hf wants checkpoint.save"},
      {{"checkpoint.most_recent_k=0"}, 1, "checkpoint.most_recent_k is 0"},
      {{"peft=lora"}, 1, "peft=lora wants the model it adapts"},
      {{"logger.log_interval=0"}, 1, "logger.log_interval is 0"},
  };
  for (const Row& row : rows) {
    const std::string message = refusal(row.changes, row.world_size);
    EXPECT_NE(message.find(row.wanted), std::string::npos) << row.changes[0] << " -> " << message;
  }
}

TEST(Validate, ListsAllAtOnce) {
  const std::string message = refusal({"optimizer.lr=0", "logger.log_interval=0"}, 1);
  EXPECT_NE(message.find("optimizer.lr"), std::string::npos);
  EXPECT_NE(message.find("logger.log_interval"), std::string::npos);
}

TEST(Unsupported, NamesThePartAndTheKey) {
  ConfigDraft draft = good();
  EXPECT_TRUE(unsupported_parts(draft.config, 1).empty());
  const std::pair<const char*, const char*> rows[] = {
      {"peft=lora", "peft.scheme"},
      {"dataset.kind=sft", "dataset.kind"},
      {"model.moe_router_load_balancing_type=sinkhorn", "model.moe_router_load_balancing_type"}};
  for (const auto& [change, key] : rows) {
    ConfigDraft asked = good();
    apply_override(asked, change, "test");
    const auto parts = unsupported_parts(asked.config, 1);
    ASSERT_EQ(parts.size(), 1u) << change;
    EXPECT_NE(parts[0].find(key), std::string::npos);
  }
  EXPECT_TRUE(unsupported_parts(draft.config, 2).empty());
}

}  // namespace
}  // namespace ponte
