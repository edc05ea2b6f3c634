// Qwen3-Next: Megatron Bridge's 80B recipes (recipes/qwen/h100/qwen3_next.py), and the 2B, 3B and 5B models of a published guide to training on FineWeb. The
// guide gives layers, widths, heads and the order of the layers (its list has 7 full and 17 linear layers of 24, and is what counts); experts, key/value heads
// and the gated delta nets are chosen here so that the totals are its own.
#include "base/errors.h"
#include "recipes/recipes.h"

namespace ponte {
namespace {

constexpr std::string_view kGuidesLayers = "fllfllfllllfllfllllfllfl";

}  // namespace

extern constexpr HybridSizes kNext80b{16, 32, 128, 512, "lllf", 1e7, 0.25};
extern constexpr HybridSizes kFineweb2b{14, 14, 128, 400, kGuidesLayers, 1e6, 0.25};
extern constexpr HybridSizes kFineweb3b{16, 16, 128, 448, kGuidesLayers, 1e6, 0.25};
extern constexpr HybridSizes kFineweb5b{20, 20, 128, 480, kGuidesLayers, 1e6, 0.25};

void set_hybrid_architecture(ModelConfig& m, const RecipeModel& model) {
  const HybridSizes& h = *model.hybrid;
  m.experimental_attention_variant = "gated_delta_net";
  m.attention_output_gate = m.layernorm_zero_centered_gamma = true;
  m.rotary_base = h.rotary_base;
  m.rotary_percent = h.rotary_percent;
  m.linear_conv_kernel_dim = 4;
  m.linear_key_head_dim = m.linear_value_head_dim = h.linear_head_dim;
  m.linear_num_key_heads = h.key_heads;
  m.linear_num_value_heads = h.value_heads;
  for (int64_t i = 0; i < m.num_layers; ++i)
    m.layer_types.push_back(h.layers[static_cast<size_t>(i) % h.layers.size()] == 'f' ? "full_attention" : "linear_attention");
  m.moe_shared_expert_intermediate_size = h.shared_ffn;
  m.moe_shared_expert_gate = true;
  m.moe_router_load_balancing_type = "global_aux_loss";
}

namespace {

void both_modes(Config& c) {
  c.model.expert_model_parallel_size = 8;
  c.model.expert_tensor_parallel_size = 1;
  c.model.moe_token_dispatcher_type = "flex";
  c.model.recompute_granularity = "selective";
  c.model.recompute_modules = {"layernorm", "moe", "moe_act"};
  c.optimizer.apply_wd_to_qk_layernorm = true;
}

}  // namespace

void qwen3_next_pretrain(Config& c) {
  both_modes(c);
  c.model.mtp_num_layers = 1;
  c.dataset.mmap_bin_files = false;
}

void qwen3_next_finetune(Config& c) {
  both_modes(c);
  c.model.pipeline_model_parallel_size = 2;
  c.train.global_batch_size = 64;
  c.validation.eval_interval = 30;
  c.checkpoint.save_interval = 50;
  c.optimizer.min_lr = 5e-6;
  c.dataset.packed_sequence_size = 0;
  c.ddp.overlap_grad_reduce = c.ddp.overlap_param_gather = c.ddp.average_in_collective = c.ddp.use_distributed_optimizer = true;
  c.ddp.data_parallel_sharding_strategy = "optim_grads_params";
}

void fineweb_pretrain(Config& c, std::string_view name) {
  const std::string logs = format("./logs/{}", name);
  c.model.expert_model_parallel_size = 1;
  c.model.expert_tensor_parallel_size = 0;
  c.model.moe_token_dispatcher_type = "alltoall";
  c.model.mtp_num_layers = 0;
  c.model.sequence_parallel = true;
  c.model.recompute_granularity.clear();
  c.model.recompute_modules.clear();
  c.train.train_iters = 50000;
  c.train.global_batch_size = 64;
  c.dataset.data_path = {"./data/fineweb_qwen3_text_document"};
  c.dataset.split = "99,1,0";
  c.checkpoint.save = c.checkpoint.load = logs + "/checkpoints";
  c.checkpoint.save_best = true;
  c.logger.tensorboard_dir = logs + "/tb_logs";
}

}  // namespace ponte
