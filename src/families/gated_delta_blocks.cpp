// Legend: H hidden, K key heads, R value heads for each key head, Dk / Dv their dims, W kernel width. Every part is cut by key heads, so a rank's value
// heads are those of its key heads.
#include "families/gated_delta_blocks.h"

#include <nlohmann/json.hpp>

#include "base/errors.h"
#include "config/layer_patterns.h"

namespace ponte {
namespace {

struct Sizes {
  int64_t H, K, R, Dk, Dv, W;
  explicit Sizes(const ModelConfig& c)
      : H(c.hidden_size), K(c.linear_num_key_heads), R(c.linear_num_value_heads / c.linear_num_key_heads), Dk(c.linear_key_head_dim),
        Dv(c.linear_value_head_dim), W(c.linear_conv_kernel_dim) {}
};

// A part of the projection: `rows` rows for each key head, found in source `source` at row `first`, one key head every `step` rows.
struct Part {
  const char* name;
  int64_t rows, source, first, step;
};

Segment part_segment(const Part& part, int64_t key_heads, const Shape& row_shape) {
  int64_t width = 1;
  for (int64_t extent : row_shape) width *= extent;
  Segment segment;
  segment.name = part.name;
  segment.shape = {key_heads * part.rows};
  segment.shape.insert(segment.shape.end(), row_shape.begin(), row_shape.end());
  segment.shard_dim = 0;
  segment.unit = part.rows;
  Box box{part.source, part.first * width, Shape(segment.shape.size(), 0), {{key_heads, part.step * width, 0, part.rows}, {part.rows, width, 0, 1}}};
  int64_t stride = width;
  for (size_t d = 0; d < row_shape.size(); ++d) {
    stride /= row_shape[d];
    box.axes.push_back({row_shape[d], stride, static_cast<int64_t>(d) + 1, 1});
  }
  segment.boxes = {std::move(box)};
  return segment;
}

InProjection in_projection_storage(const LayerPlace& place, const HfTensors& present, InProjection usual) {
  const std::string fused = place.hf + "linear_attn.in_proj_qkvz.weight", separate = place.hf + "linear_attn.in_proj_qkv.weight";
  require(!(present.contains(fused) && present.contains(separate)), "'{}' and '{}' are both present; one of them is the projection", fused, separate);
  if (present.contains(fused)) return InProjection::fused;
  return present.contains(separate) ? InProjection::separate : usual;
}

// HF's fused tensors interleave the parts by key head; the separate ones hold each part whole.
Rule in_projection(const LayerPlace& place, const Sizes& s, InProjection storage) {
  const int64_t q = s.Dk, v = s.R * s.Dv, qkvz = 2 * q + 2 * v, ba = 2 * s.R;
  const std::string hf = "linear_attn.";
  Rule rule = copied(place, "self_attention.in_proj.weight", "", {s.K * (qkvz + ba), s.H});
  rule.segments.clear();
  rule.segment_keys = SegmentKeys::separate;
  std::vector<Part> parts;
  auto source = [&](const char* name, int64_t rows) { return Source{place.hf + hf + name, {rows, s.H}}; };
  if (storage == InProjection::separate) {
    rule.sources = {source("in_proj_qkv.weight", s.K * (2 * q + v)), source("in_proj_z.weight", s.K * v), source("in_proj_b.weight", s.K * s.R),
                    source("in_proj_a.weight", s.K * s.R)};
    parts = {{"query", q, 0, 0, q}, {"key", q, 0, s.K * q, q}, {"value", v, 0, 2 * s.K * q, v},
             {"z", v, 1, 0, v},     {"beta", s.R, 2, 0, s.R},  {"alpha", s.R, 3, 0, s.R}};
  } else {
    rule.sources = {source("in_proj_qkvz.weight", s.K * qkvz), source("in_proj_ba.weight", s.K * ba)};
    parts = {{"query", q, 0, 0, qkvz},     {"key", q, 0, q, qkvz},  {"value", v, 0, 2 * q, qkvz},
             {"z", v, 0, 2 * q + v, qkvz}, {"beta", s.R, 1, 0, ba}, {"alpha", s.R, 1, s.R, ba}};
  }
  for (const Part& part : parts) rule.segments.push_back(part_segment(part, s.K, {s.H}));
  return rule;
}

Rule convolution(const LayerPlace& place, const Sizes& s) {
  const int64_t q = s.Dk, v = s.R * s.Dv;
  Rule rule = copied(place, "self_attention.conv1d.weight", "linear_attn.conv1d.weight", {s.K * (2 * q + v), 1, s.W});
  rule.segment_keys = SegmentKeys::separate;
  rule.segments.clear();
  for (const Part& part : {Part{"query", q, 0, 0, q}, Part{"key", q, 0, s.K * q, q}, Part{"value", v, 0, 2 * s.K * q, v}})
    rule.segments.push_back(part_segment(part, s.K, {1, s.W}));
  return rule;
}

}  // namespace

bool is_linear_attention(const ModelConfig& config, int64_t layer) {
  return !config.layer_types.empty() && config.layer_types[static_cast<size_t>(layer)] == "linear_attention";
}

void add_gated_delta_net(RuleTable& table, const ModelConfig& config, const LayerPlace& place, const HfTensors& present,
                         InProjection usual) {
  const Sizes s(config);
  table.rules.push_back(copied(place, "self_attention.in_proj.layer_norm_weight", "input_layernorm.weight", {s.H}));
  table.rules.push_back(in_projection(place, s, in_projection_storage(place, present, usual)));
  table.rules.push_back(convolution(place, s));
  for (const char* name : {"A_log", "dt_bias"}) {
    table.rules.push_back(copied(place, format("self_attention.{}", name), format("linear_attn.{}", name), {s.K * s.R}, 0, s.R));
    table.rules.back().precision = Precision::fp32;
  }
  // HF's gated norm is centred on one, Megatron's on zero.
  table.rules.push_back(copied(place, "self_attention.out_norm.weight", "linear_attn.norm.weight", {s.Dv}));
  table.rules.back().arithmetic = Arithmetic::minus_one;
  table.rules.back().replicated_gradient = ReplicatedGradient::by_heads;
  table.rules.push_back(copied(place, "self_attention.out_proj.weight", "linear_attn.out_proj.weight", {s.H, s.K * s.R * s.Dv}, 1, s.R * s.Dv));
  for (const char* module : {"in_proj", "out_norm", "out_proj"}) add_extra_state(table, place, format("self_attention.{}", module));
}

void read_gated_delta_config(const Json& hf, std::string_view origin, ModelConfig& c) {
  c.experimental_attention_variant = "gated_delta_net";
  auto size = [&](const char* key, int64_t fallback) {
    const int64_t value = json_get_or<int64_t>(hf, key, fallback, origin);
    require(value > 0 && value < (int64_t{1} << 24), "{}: '{}' is {}, wanted a positive size", origin, key, value);
    return value;
  };
  c.linear_conv_kernel_dim = size("linear_conv_kernel_dim", 4);
  c.linear_key_head_dim = size("linear_key_head_dim", 128);
  c.linear_value_head_dim = size("linear_value_head_dim", 128);
  c.linear_num_key_heads = size("linear_num_key_heads", 16);
  c.linear_num_value_heads = size("linear_num_value_heads", 32);
  require(c.linear_num_value_heads % c.linear_num_key_heads == 0, "{}: {} linear value heads do not divide over {} key heads", origin,
          c.linear_num_value_heads, c.linear_num_key_heads);
  c.linear_attention_freq = size("full_attention_interval", 4);
  c.layer_types.clear();
  if (hf.contains("layer_types") && !hf["layer_types"].is_null()) {
    require(hf["layer_types"].is_array() && static_cast<int64_t>(hf["layer_types"].size()) == c.num_layers, "{}: 'layer_types' does not list {} layers", origin,
            c.num_layers);
    for (const Json& type : hf["layer_types"]) {
      require(type == "full_attention" || type == "linear_attention", "{}: layer type {} is not one of full_attention, linear_attention", origin, type.dump());
      c.layer_types.push_back(type.get<std::string>());
    }
  } else {
    c.layer_types = periodic_layer_types(c.num_layers, c.linear_attention_freq);
  }
}

void write_gated_delta_config(const ModelConfig& c, Json& hf) {
  hf["layer_types"] = c.layer_types;
  hf["linear_conv_kernel_dim"] = c.linear_conv_kernel_dim;
  hf["linear_key_head_dim"] = c.linear_key_head_dim;
  hf["linear_value_head_dim"] = c.linear_value_head_dim;
  hf["linear_num_key_heads"] = c.linear_num_key_heads;
  hf["linear_num_value_heads"] = c.linear_num_value_heads;
}

}  // namespace ponte
