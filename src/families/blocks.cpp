// Layouts as Megatron Core keeps them (megatron/core/models/gpt, transformer/attention.py); HF names as in transformers' modeling_qwen2.py.
// Legend: H hidden, D head dim, N query heads, G query groups, Q = N / G, F ffn, V vocabulary.
#include "families/blocks.h"

#include "base/checked.h"

namespace ponte {
namespace {

// Axes of a whole row-major tensor, innermost last.
std::vector<BoxAxis> dense_axes(const Shape& shape) {
  std::vector<BoxAxis> axes(shape.size());
  int64_t stride = 1;
  for (size_t d = shape.size(); d-- > 0;) {
    axes[d] = {shape[d], stride, static_cast<int64_t>(d), 1};
    stride *= shape[d];
  }
  return axes;
}

Box whole(int64_t source, const Shape& shape) { return {source, 0, Shape(shape.size(), 0), dense_axes(shape)}; }

Rule rule_at(const LayerPlace& place, std::string leaf, Shape shape) {
  Rule rule;
  rule.stack = place.stack;
  rule.layer = place.layer;
  rule.layer_count = place.layer_count;
  rule.leaf = place.leaf_prefix + leaf;
  rule.shape = std::move(shape);
  return rule;
}

const LayerPlace kOutside{};

}  // namespace

void add_extra_state(RuleTable& table, const LayerPlace& place, std::string leaf) {
  table.extra_state.push_back({place.stack, place.layer, place.layer_count, place.leaf_prefix + leaf});
}

Rule copied(const LayerPlace& place, std::string leaf, std::string hf_name, Shape shape, int64_t shard_dim, int64_t unit) {
  Rule rule = rule_at(place, std::move(leaf), shape);
  rule.sources = {{place.hf + hf_name, shape}};
  Segment segment;
  segment.shape = shape;
  segment.shard_dim = shard_dim;
  segment.unit = unit;
  segment.boxes = {whole(0, shape)};
  rule.segments.push_back(std::move(segment));
  return rule;
}

Rule fused_query_key_value(const LayerPlace& place, const ModelConfig& config, const std::string& suffix) {
  const int64_t D = config.kv_channels, G = config.num_query_groups, Q = config.num_attention_heads / G;
  const int64_t gates = config.attention_output_gate ? Q : 0, group_rows = (Q + gates + 2) * D;
  const bool matrix = suffix == "weight";
  const int64_t width = matrix ? config.hidden_size : 1;  // elements of one row
  auto shape_of = [&](int64_t rows) { return matrix ? Shape{rows, width} : Shape{rows}; };

  Rule rule = rule_at(place, "self_attention.linear_qkv." + suffix, shape_of(G * group_rows));
  Segment segment;
  segment.shape = rule.shape;
  segment.shard_dim = 0;
  segment.unit = group_rows;
  segment.parts = {{Q * D, D}, {D, 0}, {D, 0}};
  if (gates) segment.parts.insert(segment.parts.begin(), {Q * D, D});
  auto add_source = [&](const char* projection, int64_t rows) {
    rule.sources.push_back({format("{}self_attn.{}.{}", place.hf, projection, suffix), shape_of(rows)});
  };
  // `heads` heads of every group, from row `hf_row` of the last source on, one each `hf_step` rows; they start at `first_row` of the group.
  auto add_heads = [&](int64_t heads, int64_t hf_row, int64_t hf_step, int64_t first_row) {
    Box box{static_cast<int64_t>(rule.sources.size()) - 1, hf_row * width, {first_row},
            {{G, heads * hf_step * width, 0, group_rows}, {heads, hf_step * width, 0, D}, {D, width, 0, 1}}};
    if (matrix) {
      box.native_origin.push_back(0);
      box.axes.push_back({width, 1, 1, 1});
    }
    segment.boxes.push_back(std::move(box));
  };
  const int64_t query_step = gates ? 2 * D : D;
  add_source("q_proj", G * Q * query_step);
  add_heads(Q, 0, query_step, 0);
  if (gates) add_heads(Q, D, query_step, Q * D);
  add_source("k_proj", G * D);
  add_heads(1, 0, D, (Q + gates) * D);
  add_source("v_proj", G * D);
  add_heads(1, 0, D, (Q + gates + 1) * D);
  rule.segments.push_back(std::move(segment));
  return rule;
}

Rule fused_gate_up(const LayerPlace& place, std::string leaf, const std::string& hf_gate, const std::string& hf_up, int64_t ffn, int64_t hidden) {
  Rule rule = rule_at(place, std::move(leaf), {2 * ffn, hidden});
  const Shape half{ffn, hidden};
  auto add = [&](const char* name, const std::string& hf_name) {
    Segment segment;
    segment.name = name;
    segment.shape = half;
    segment.shard_dim = 0;
    segment.boxes = {whole(static_cast<int64_t>(rule.sources.size()), half)};
    rule.segments.push_back(std::move(segment));
    rule.sources.push_back({place.hf + hf_name, half});
  };
  add("gate", hf_gate);
  add("up", hf_up);
  return rule;
}

void add_embedding(RuleTable& table, const ModelConfig& config) {
  table.rules.push_back(copied(kOutside, "embedding.word_embeddings.weight", "model.embed_tokens.weight", {config.vocab_size, config.hidden_size}, 0));
  table.rules.back().segments[0].padded = true;
}

void add_head(RuleTable& table, const ModelConfig& config) {
  table.rules.push_back(copied(kOutside, "decoder.final_layernorm.weight", "model.norm.weight", {config.hidden_size}));
  add_extra_state(table, kOutside, "decoder.final_layernorm");
  if (config.share_embeddings_and_output_weights) {
    table.aliases.push_back({"lm_head.weight", "model.embed_tokens.weight"});
    return;
  }
  table.rules.push_back(copied(kOutside, "output_layer.weight", "lm_head.weight", {config.vocab_size, config.hidden_size}, 0));
  table.rules.back().segments[0].padded = true;
}

void add_self_attention(RuleTable& table, const ModelConfig& config, const LayerPlace& place) {
  const int64_t H = config.hidden_size, D = config.kv_channels, N = config.num_attention_heads;
  table.rules.push_back(copied(place, "self_attention.linear_qkv.layer_norm_weight", "input_layernorm.weight", {H}));
  table.rules.push_back(fused_query_key_value(place, config, "weight"));
  if (config.add_qkv_bias) table.rules.push_back(fused_query_key_value(place, config, "bias"));
  if (config.qk_layernorm)
    for (const char* which : {"q", "k"}) {
      table.rules.push_back(copied(place, format("self_attention.{}_layernorm.weight", which), format("self_attn.{}_norm.weight", which), {D}));
      table.rules.back().replicated_gradient = ReplicatedGradient::by_heads;
      add_extra_state(table, place, format("self_attention.{}_layernorm", which));
    }
  table.rules.push_back(copied(place, "self_attention.linear_proj.weight", "self_attn.o_proj.weight", {H, checked_multiply(N, D, "o_proj")}, 1, D));
  add_extra_state(table, place, "self_attention.linear_qkv");
  add_extra_state(table, place, "self_attention.linear_proj");
}

void add_gated_mlp(RuleTable& table, const ModelConfig& config, const LayerPlace& place) {
  const int64_t H = config.hidden_size, F = config.ffn_hidden_size;
  table.rules.push_back(copied(place, "mlp.linear_fc1.layer_norm_weight", "post_attention_layernorm.weight", {H}));
  table.rules.push_back(fused_gate_up(place, "mlp.linear_fc1.weight", "mlp.gate_proj.weight", "mlp.up_proj.weight", F, H));
  table.rules.push_back(copied(place, "mlp.linear_fc2.weight", "mlp.down_proj.weight", {H, F}, 1));
  add_extra_state(table, place, "mlp.linear_fc1");
  add_extra_state(table, place, "mlp.linear_fc2");
}

RuleTable dense_decoder(const ModelConfig& config) {
  RuleTable table;
  add_embedding(table, config);
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    const LayerPlace place{"decoder.layers", layer, config.num_layers, format("model.layers.{}.", layer)};
    add_self_attention(table, config, place);
    add_gated_mlp(table, config, place);
  }
  add_head(table, config);
  return table;
}

}  // namespace ponte
