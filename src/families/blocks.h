// Groups of rules that families share: embeddings, attention, gated MLP. A family file composes these and adds what is its own.
#pragma once
#include "config/model_config.h"
#include "families/rule.h"

namespace ponte {

// Where a layer's parameters live on both sides: "decoder.layers" 3 of 28 <-> "model.layers.3.".
struct LayerPlace {
  std::string stack;
  int64_t layer = -1, layer_count = 0;
  std::string hf;  // prefix, with its final dot
  std::string leaf_prefix = {};  // of Megatron's leaves, with its final dot: "mtp_model_layer." inside a multi-token prediction layer
};

// One Transformer Engine module of this layer.
void add_extra_state(RuleTable& table, const LayerPlace& place, std::string leaf);

// One segment that is the HF tensor as it is.
Rule copied(const LayerPlace& place, std::string leaf, std::string hf_name, Shape shape, int64_t shard_dim = kReplicated, int64_t unit = 1);

// Megatron's fused query/key/value projection, [group, {query x heads per group, key, value}, head_dim] x hidden. HF keeps query, key and value apart.
// `suffix` is "weight" ([rows, hidden]) or "bias" ([rows]). With attention_output_gate HF's q_proj holds [query; gate] for each head and Megatron's group
// is {queries, gates, key, value}.
Rule fused_query_key_value(const LayerPlace& place, const ModelConfig& config, const std::string& suffix);
// Megatron's linear_fc1 = segments gate, up of `ffn` rows each.
Rule fused_gate_up(const LayerPlace& place, std::string leaf, const std::string& hf_gate, const std::string& hf_up, int64_t ffn, int64_t hidden);

// Word embeddings first, final norm and (untied) output layer last.
void add_embedding(RuleTable& table, const ModelConfig& config);
void add_head(RuleTable& table, const ModelConfig& config);
// input_layernorm + self_attn, with q/k norms and QKV bias as the configuration says.
void add_self_attention(RuleTable& table, const ModelConfig& config, const LayerPlace& place);
// post_attention_layernorm + gated MLP.
void add_gated_mlp(RuleTable& table, const ModelConfig& config, const LayerPlace& place);
// The whole of a dense pre-norm decoder.
RuleTable dense_decoder(const ModelConfig& config);

}  // namespace ponte
