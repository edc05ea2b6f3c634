// Rules of a gated delta net layer. Source: megatron/core/ssm/gated_delta_net.py (in_proj and conv1d hold their parts one after the other and are
// sharded part by part) and transformers' modeling_qwen3_next.py, modeling_qwen3_5.py (the two ways HF stores the same projections).
#pragma once
#include "base/json.h"
#include "families/blocks.h"

namespace ponte {

// How HF stores the input projections: in_proj_qkvz and in_proj_ba, interleaved by key head, or in_proj_qkv, in_proj_z, in_proj_b and in_proj_a.
enum class InProjection { fused, separate };

// input_layernorm + linear_attn.*; names in `present` overrule `usual`.
void add_gated_delta_net(RuleTable& table, const ModelConfig& config, const LayerPlace& place, const HfTensors& present,
                         InProjection usual = InProjection::fused);
bool is_linear_attention(const ModelConfig& config, int64_t layer);

// layer_types or full_attention_interval, linear_num_key_heads and its kin.
void read_gated_delta_config(const Json& hf, std::string_view origin, ModelConfig& config);
void write_gated_delta_config(const ModelConfig& config, Json& hf);

}  // namespace ponte
