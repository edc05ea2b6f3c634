// Groups of rules of sparse decoders: router, routed experts in any of the layouts HF stores them in, shared experts. Source: megatron/core/transformer/moe
// and transformers' modeling_qwen3_moe.py, modeling_qwen2_moe.py, modeling_qwen3_next.py.
#pragma once
#include "base/json.h"
#include "families/blocks.h"

namespace ponte {

// How HF stores the routed experts of a layer. Megatron's side is always one fc1 [2 Im, H] and one fc2 [H, Im] per expert.
enum class ExpertStorage {
  per_expert,     // mlp.experts.7.{gate,up,down}_proj.weight
  packed_out_in,  // mlp.experts.gate_up_proj [E, 2 Im, H], mlp.experts.down_proj [E, H, Im]
  packed_in_out,  // mlp.experts.gate_up_proj [E, H, 2 Im], mlp.experts.down_proj [E, Im, H]
};

// Read from the names and shapes present below `hf` ("model.layers.0."), never guessed: a square matrix is decided by its sibling, since gate_up is
// [2 Im, H] and down [H, Im] and both are square never. Absent altogether: `usual`. Mixed or contradictory: UserError naming the tensors.
ExpertStorage expert_storage(const std::string& hf, const ModelConfig& config, const HfTensors& present, ExpertStorage usual = ExpertStorage::per_expert);

// UserError naming two layers of the decoder whose experts are stored in different layouts. (Prediction layers have their own.)
void require_one_expert_storage(const ModelConfig& config, const HfTensors& present);

// post_attention_layernorm, router (with its bias when the configuration has one), experts, shared expert with its gate.
void add_moe(RuleTable& table, const ModelConfig& config, const LayerPlace& place, const HfTensors& present, ExpertStorage usual = ExpertStorage::per_expert);
bool is_moe_layer(const ModelConfig& config, int64_t layer);
// The whole of a pre-norm decoder whose layers have experts where moe_layer_freq says so.
RuleTable sparse_decoder(const ModelConfig& config, const HfTensors& present);

// What this model's routers do that transformers' class of its architecture does not ("sigmoid scores, groups of experts"); "": nothing.
std::string router_of_its_own(const ModelConfig& config);

// HF's expert fields: num_experts (or num_local_experts), num_experts_per_tok, moe_intermediate_size, shared_expert_intermediate_size, norm_topk_prob,
// router_aux_loss_coef, decoder_sparse_step, mlp_only_layers; and, where a run has set them, scoring_func, routed_scaling_factor, n_group, topk_group.
void read_moe_config(const Json& hf, std::string_view origin, ModelConfig& config);
void write_moe_config(const ModelConfig& config, Json& hf);

}  // namespace ponte
