// Legend: E experts, H hidden, F one expert's ffn (Im in HF's configs).
#include "families/moe_blocks.h"

#include <nlohmann/json.hpp>

#include "base/errors.h"

namespace ponte {
namespace {

// Rows [first, first + rows) of a segment [rows, columns] as a box of a packed tensor: element (r, c) is at origin + r x row_stride + c x column_stride.
Box packed_box(int64_t rows, int64_t columns, int64_t origin, int64_t row_stride, int64_t column_stride) {
  return {0, origin, {0, 0}, {{rows, row_stride, 0, 1}, {columns, column_stride, 1, 1}}};
}

Rule expert_rule(const LayerPlace& place, const std::string& leaf, const ModelConfig& config, int64_t expert, Shape shape) {
  Rule rule;
  rule.stack = place.stack;
  rule.layer = place.layer;
  rule.layer_count = place.layer_count;
  rule.leaf = place.leaf_prefix + leaf;
  rule.expert = expert;
  rule.expert_count = config.num_moe_experts;
  rule.shape = std::move(shape);
  return rule;
}

// The packed tensors of a layer; every expert's rule reads its own part of them.
Rule packed_fc1(const LayerPlace& place, const ModelConfig& config, int64_t expert, ExpertStorage storage) {
  const int64_t H = config.hidden_size, F = config.moe_ffn_hidden_size, E = config.num_moe_experts;
  const bool out_in = storage == ExpertStorage::packed_out_in;
  Rule rule = expert_rule(place, "mlp.experts.linear_fc1.weight", config, expert, {2 * F, H});
  rule.sources = {{place.hf + "mlp.experts.gate_up_proj", out_in ? Shape{E, 2 * F, H} : Shape{E, H, 2 * F}}};
  for (const char* name : {"gate", "up"}) {
    const int64_t first = rule.segments.empty() ? 0 : F, base = expert * 2 * F * H;
    Segment segment;
    segment.name = name;
    segment.shape = {F, H};
    segment.shard_dim = 0;
    segment.boxes = {out_in ? packed_box(F, H, base + first * H, H, 1) : packed_box(F, H, base + first, 1, 2 * F)};
    rule.segments.push_back(std::move(segment));
  }
  return rule;
}

Rule packed_fc2(const LayerPlace& place, const ModelConfig& config, int64_t expert, ExpertStorage storage) {
  const int64_t H = config.hidden_size, F = config.moe_ffn_hidden_size, E = config.num_moe_experts;
  const bool out_in = storage == ExpertStorage::packed_out_in;
  Rule rule = expert_rule(place, "mlp.experts.linear_fc2.weight", config, expert, {H, F});
  rule.sources = {{place.hf + "mlp.experts.down_proj", out_in ? Shape{E, H, F} : Shape{E, F, H}}};
  Segment segment;
  segment.shape = {H, F};
  segment.shard_dim = 1;
  segment.boxes = {out_in ? packed_box(H, F, expert * H * F, F, 1) : packed_box(H, F, expert * H * F, 1, H)};
  rule.segments.push_back(std::move(segment));
  return rule;
}

void add_experts(RuleTable& table, const ModelConfig& config, const LayerPlace& place, ExpertStorage storage) {
  const int64_t H = config.hidden_size, F = config.moe_ffn_hidden_size;
  for (int64_t e = 0; e < config.num_moe_experts; ++e) {
    if (storage != ExpertStorage::per_expert) {
      table.rules.push_back(packed_fc1(place, config, e, storage));
      table.rules.push_back(packed_fc2(place, config, e, storage));
    } else {
      const std::string hf = format("mlp.experts.{}.", e);
      table.rules.push_back(fused_gate_up(place, "mlp.experts.linear_fc1.weight", hf + "gate_proj.weight", hf + "up_proj.weight", F, H));
      table.rules.push_back(copied(place, "mlp.experts.linear_fc2.weight", hf + "down_proj.weight", {H, F}, 1));
      for (size_t back : {1, 2}) {
        Rule& rule = table.rules[table.rules.size() - back];
        rule.expert = e;
        rule.expert_count = config.num_moe_experts;
      }
    }
    for (const char* linear : {"mlp.experts.linear_fc1", "mlp.experts.linear_fc2"})
      table.extra_state.push_back({place.stack, place.layer, place.layer_count, place.leaf_prefix + linear, e, config.num_moe_experts});
  }
}

void add_shared_expert(RuleTable& table, const ModelConfig& config, const LayerPlace& place) {
  const int64_t H = config.hidden_size, F = config.moe_shared_expert_intermediate_size;
  const std::string hf = "mlp.shared_expert.";
  table.rules.push_back(fused_gate_up(place, "mlp.shared_experts.linear_fc1.weight", hf + "gate_proj.weight", hf + "up_proj.weight", F, H));
  table.rules.push_back(copied(place, "mlp.shared_experts.linear_fc2.weight", hf + "down_proj.weight", {H, F}, 1));
  if (config.moe_shared_expert_gate) table.rules.push_back(copied(place, "mlp.shared_experts.gate_weight", "mlp.shared_expert_gate.weight", {1, H}));
  add_extra_state(table, place, "mlp.shared_experts.linear_fc1");
  add_extra_state(table, place, "mlp.shared_experts.linear_fc2");
}

const char* layout_name(ExpertStorage storage) {
  return storage == ExpertStorage::per_expert ? "one by one" : storage == ExpertStorage::packed_out_in ? "[experts, out, in]" : "[experts, in, out]";
}

// Routers a run may set and transformers' classes of these families do not have, under the names DeepSeek-V3's config.json has for them; absent: the family's.
void read_router_config(const Json& hf, std::string_view origin, ModelConfig& c) {
  c.moe_router_score_function = json_get_or<std::string>(hf, "scoring_func", "softmax", origin);
  require(c.moe_router_score_function == "softmax" || c.moe_router_score_function == "sigmoid", "{}: 'scoring_func' is '{}', wanted softmax or sigmoid", origin,
          c.moe_router_score_function);
  if (hf.contains("routed_scaling_factor") && !hf["routed_scaling_factor"].is_null())
    c.moe_router_topk_scaling_factor = json_get<double>(hf, "routed_scaling_factor", origin);
  c.moe_router_num_groups = json_get_or<int64_t>(hf, "n_group", 0, origin);
  c.moe_router_group_topk = json_get_or<int64_t>(hf, "topk_group", 0, origin);
  require(c.moe_router_num_groups >= 0 && c.moe_router_group_topk >= 0, "{}: 'n_group' is {} and 'topk_group' {}", origin, c.moe_router_num_groups,
          c.moe_router_group_topk);
}

void write_router_config(const ModelConfig& c, Json& hf) {
  if (c.moe_router_score_function != "softmax") hf["scoring_func"] = c.moe_router_score_function;
  if (c.moe_router_topk_scaling_factor) hf["routed_scaling_factor"] = *c.moe_router_topk_scaling_factor;
  if (c.moe_router_num_groups) hf["n_group"] = c.moe_router_num_groups;
  if (c.moe_router_group_topk) hf["topk_group"] = c.moe_router_group_topk;
}

}  // namespace

std::string router_of_its_own(const ModelConfig& c) {
  std::vector<std::string> found;
  if (c.num_moe_experts == 0) return "";
  if (c.moe_router_score_function != "softmax") found.push_back(c.moe_router_score_function + " scores");
  if (c.moe_router_enable_expert_bias) found.push_back("a bias for each expert");
  if (c.moe_router_topk_scaling_factor.value_or(1.0) != 1.0) found.push_back("a factor on the experts' weights");
  if (c.moe_router_group_topk) found.push_back("groups of experts");
  return join(found, ", ");
}

ExpertStorage expert_storage(const std::string& hf, const ModelConfig& config, const HfTensors& present, ExpertStorage usual) {
  const int64_t H = config.hidden_size, F = config.moe_ffn_hidden_size, E = config.num_moe_experts;
  const std::string gate_up = hf + "mlp.experts.gate_up_proj", down = hf + "mlp.experts.down_proj";
  const auto packed_gate_up = present.find(gate_up), packed_down = present.find(down);
  const bool single = present.contains(hf + "mlp.experts.0.gate_proj.weight");
  if (packed_gate_up == present.end() && packed_down == present.end()) return single ? ExpertStorage::per_expert : usual;
  require(!single, "experts below '{}' are stored both one by one and packed", hf);
  require(packed_gate_up != present.end() && packed_down != present.end(), "'{}' is present but '{}' is not", packed_gate_up != present.end() ? gate_up : down,
          packed_gate_up != present.end() ? down : gate_up);
  const bool out_in = packed_gate_up->second == Shape{E, 2 * F, H} && packed_down->second == Shape{E, H, F};
  const bool in_out = packed_gate_up->second == Shape{E, H, 2 * F} && packed_down->second == Shape{E, F, H};
  require(out_in || in_out,
          "'{}' {} and '{}' {} fit neither [experts, out, in] nor [experts, in, out] for {} experts of {} in a model of {}", gate_up,
          packed_gate_up->second, down, packed_down->second, E, F, H);
  PONTE_ASSERT(!(out_in && in_out));  // both would need 2F = H and F = H
  return out_in ? ExpertStorage::packed_out_in : ExpertStorage::packed_in_out;
}

bool is_moe_layer(const ModelConfig& config, int64_t layer) {
  return config.num_moe_experts > 0 && (config.moe_layer_freq.empty() || config.moe_layer_freq[static_cast<size_t>(layer)] != 0);
}

void add_moe(RuleTable& table, const ModelConfig& config, const LayerPlace& place, const HfTensors& present, ExpertStorage usual) {
  const int64_t H = config.hidden_size, E = config.num_moe_experts;
  table.rules.push_back(copied(place, "pre_mlp_layernorm.weight", "post_attention_layernorm.weight", {H}));
  add_extra_state(table, place, "pre_mlp_layernorm");
  table.rules.push_back(copied(place, "mlp.router.weight", "mlp.gate.weight", {E, H}));
  if (config.moe_router_enable_expert_bias) {
    table.rules.push_back(copied(place, "mlp.router.expert_bias", "mlp.gate.e_score_correction_bias", {E}));
    table.rules.back().precision = Precision::fp32;
  }
  add_experts(table, config, place, expert_storage(place.hf, config, present, usual));
  if (config.moe_shared_expert_intermediate_size > 0) add_shared_expert(table, config, place);
}

void require_one_expert_storage(const ModelConfig& config, const HfTensors& present) {
  std::string first;
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    const std::string hf = format("model.layers.{}.", layer);
    const bool stored = present.contains(hf + "mlp.experts.gate_up_proj") || present.contains(hf + "mlp.experts.0.gate_proj.weight");
    if (!stored || !is_moe_layer(config, layer)) continue;
    if (first.empty()) first = hf;
    const ExpertStorage before = expert_storage(first, config, present), now = expert_storage(hf, config, present);
    require(before == now, "experts are stored in two layouts: {} below '{}', {} below '{}'; one model has one", layout_name(before), first,
            layout_name(now), hf);
  }
}

RuleTable sparse_decoder(const ModelConfig& config, const HfTensors& present) {
  RuleTable table;
  add_embedding(table, config);
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    const LayerPlace place{"decoder.layers", layer, config.num_layers, format("model.layers.{}.", layer)};
    add_self_attention(table, config, place);
    if (is_moe_layer(config, layer)) add_moe(table, config, place, present);
    else add_gated_mlp(table, config, place);
  }
  add_head(table, config);
  table.homogeneous = config.moe_layer_freq.empty();
  return table;
}

void read_moe_config(const Json& hf, std::string_view origin, ModelConfig& c) {
  const char* count = hf.contains("num_experts") ? "num_experts" : "num_local_experts";
  auto positive = [&](const char* key) {
    const int64_t value = json_get<int64_t>(hf, key, origin);
    require(value > 0 && value < (int64_t{1} << 31), "{}: '{}' is {}, wanted a positive size", origin, key, value);
    return value;
  };
  c.num_moe_experts = positive(count);
  require(c.num_moe_experts <= 65536, "{}: '{}' is {}, wanted at most 65536", origin, count, c.num_moe_experts);
  c.moe_router_topk = positive("num_experts_per_tok");
  require(c.moe_router_topk <= c.num_moe_experts, "{}: num_experts_per_tok {} of {} experts", origin, c.moe_router_topk, c.num_moe_experts);
  c.moe_ffn_hidden_size = positive("moe_intermediate_size");
  c.moe_shared_expert_intermediate_size = json_get_or<int64_t>(hf, "shared_expert_intermediate_size", 0, origin);
  require(c.moe_shared_expert_intermediate_size >= 0 && c.moe_shared_expert_intermediate_size < (int64_t{1} << 31),
          "{}: 'shared_expert_intermediate_size' is {}", origin, c.moe_shared_expert_intermediate_size);
  c.moe_router_pre_softmax = !json_get_or<bool>(hf, "norm_topk_prob", false, origin);
  c.moe_aux_loss_coeff = json_get_or<double>(hf, "router_aux_loss_coef", 0.001, origin);
  read_router_config(hf, origin, c);
  const int64_t step = json_get_or<int64_t>(hf, "decoder_sparse_step", 1, origin);
  require(step >= 0, "{}: 'decoder_sparse_step' is {}", origin, step);
  std::vector<int64_t> sparse(static_cast<size_t>(c.num_layers), 0);
  for (int64_t i = 0; i < c.num_layers; ++i) sparse[static_cast<size_t>(i)] = step > 0 && (i + 1) % step == 0;
  if (hf.contains("mlp_only_layers") && !hf["mlp_only_layers"].is_null()) {
    require(hf["mlp_only_layers"].is_array(), "{}: 'mlp_only_layers' is not a list", origin);
    for (const Json& layer : hf["mlp_only_layers"]) {
      require(layer.is_number_integer() && layer >= 0 && layer < c.num_layers, "{}: 'mlp_only_layers' names layer {} of {}", origin, layer.dump(),
              c.num_layers);
      sparse[layer.get<size_t>()] = 0;
    }
  }
  if (std::find(sparse.begin(), sparse.end(), 0) != sparse.end()) c.moe_layer_freq = std::move(sparse);
}

void write_moe_config(const ModelConfig& c, Json& hf) {
  hf["num_experts"] = c.num_moe_experts;
  hf["num_experts_per_tok"] = c.moe_router_topk;
  hf["moe_intermediate_size"] = c.moe_ffn_hidden_size;
  if (c.moe_shared_expert_intermediate_size) hf["shared_expert_intermediate_size"] = c.moe_shared_expert_intermediate_size;
  hf["norm_topk_prob"] = !c.moe_router_pre_softmax;
  hf["router_aux_loss_coef"] = c.moe_aux_loss_coeff;
  write_router_config(c, hf);
  hf["decoder_sparse_step"] = 1;
  Json dense = Json::array();
  for (int64_t i = 0; i < c.num_layers; ++i)
    if (!is_moe_layer(c, i)) dense.push_back(i);
  hf["mlp_only_layers"] = dense;
}

}  // namespace ponte
