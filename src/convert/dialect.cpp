#include "convert/dialect.h"

#include "base/errors.h"
#include "convert/packing.h"

namespace ponte {
namespace {

std::string replaced(std::string text, std::string_view what, std::string_view with) {
  const size_t at = text.find(what);
  return at == std::string::npos ? text : text.replace(at, what.size(), with);
}

// The multi-token prediction layer keeps its first name on disk; an expert's parameters sit in a container of their own there.
std::string disk_leaf(const std::string& leaf) {
  return replaced(replaced(leaf, "mtp_model_layer.", "transformer_layer."), "mlp.experts.", "mlp.experts.experts.");
}

bool is_stacked(const std::string& stack, int64_t layer, Dialect dialect) {
  return layer >= 0 && dialect.layer_keys == LayerKeys::stacked && !stack.starts_with("mtp");
}

std::string segment_suffix(const Segment& segment, Dialect dialect) {
  if (dialect.container == Container::fsdp_dtensor && segment.name == "gate") return "_w";
  if (dialect.container == Container::fsdp_dtensor && segment.name == "up") return "_v";
  return "." + segment.name;
}

constexpr std::string_view kFsdpWeight = "model.module.", kFsdpParameter = "module.module.module.";

std::string fsdp_name(const Rule& rule) { return replaced(rule.name(), "mtp_model_layer.", "transformer_layer."); }

StoredSegment fsdp_segment(const Rule& rule, const Segment& segment, Dialect dialect) {
  StoredSegment out;
  out.key = std::string(kFsdpWeight) + fsdp_name(rule);
  out.shape = rule.shape;
  if (rule.segments.size() > 1) {
    out.key += segment_suffix(segment, dialect);
    out.shape = segment.shape;
  }
  return out;
}

}  // namespace

StoredSegment stored_segment(const Rule& rule, size_t index, Dialect dialect) {
  const Segment& segment = rule.segments[index];
  if (dialect.container == Container::fsdp_dtensor) return fsdp_segment(rule, segment, dialect);
  StoredSegment out;
  PackedSegment packed = packed_segment(rule, index, dialect.packing);
  std::string leaf = disk_leaf(packed.leaf);
  if (dialect.local_norms) leaf = replaced(leaf, "pre_mlp_layernorm.", "mlp.linear_fc1.layer_norm_");
  if (is_stacked(rule.stack, rule.layer, dialect)) {
    out.key = rule.stack + "." + leaf;
    out.shape.push_back(rule.layer_count);
    out.prefix.push_back(rule.layer);
  } else {
    out.key = rule.layer >= 0 ? format("{}.{}.{}", rule.stack, rule.layer, leaf) : leaf;
  }
  if (rule.expert >= 0) {
    out.shape.push_back(rule.expert_count);
    out.prefix.push_back(rule.expert);
  }
  if (!packed.runs.empty()) {
    out.runs = std::move(packed.runs);
    out.shape.push_back(packed.rows);
    out.shape.insert(out.shape.end(), segment.shape.begin() + 1, segment.shape.end());
    return out;
  }
  const bool apart = rule.segment_keys == SegmentKeys::separate;
  if (apart) out.key += segment_suffix(segment, dialect);
  else
    for (size_t i = 0; i < index; ++i) out.row += rule.segments[i].shape[0];
  const Shape& own = apart ? segment.shape : rule.shape;
  out.shape.insert(out.shape.end(), own.begin(), own.end());
  return out;
}

std::string fsdp_parameter(const Rule& rule) { return std::string(kFsdpParameter) + fsdp_name(rule); }

std::string state_key(const std::string& weight_key, std::string_view kind, Container container) {
  if (container == Container::torch_dist) return format("optimizer.state.{}.{}", kind, weight_key);
  if (kind == "param") return weight_key;
  return format("optimizer.state.{}{}.{}", kFsdpParameter, weight_key.substr(kFsdpWeight.size()), kind);
}

std::string_view state_kind(std::string_view prefix) {
  constexpr std::string_view kState = "optimizer.state.";
  return prefix.starts_with(kState) && prefix.ends_with('.') ? prefix.substr(kState.size(), prefix.size() - kState.size() - 1) : std::string_view();
}

std::string prefixed_key(std::string_view prefix, const std::string& weight_key, Container container) {
  const std::string_view kind = state_kind(prefix);
  return kind.empty() ? std::string(prefix) + weight_key : state_key(weight_key, kind, container);
}

std::string extra_state_key(const ExtraState& module, Dialect dialect) {
  std::vector<std::string> offsets, counts;
  auto axis = [&](int64_t offset, int64_t count) {
    offsets.push_back(std::to_string(offset));
    counts.push_back(std::to_string(count));
  };
  const std::string leaf = disk_leaf(module.leaf);
  std::string key = leaf;
  if (is_stacked(module.stack, module.layer, dialect)) {
    key = module.stack + "." + leaf;
    axis(module.layer, module.layer_count);
  } else if (module.layer >= 0) {
    key = format("{}.{}.{}", module.stack, module.layer, leaf);
  }
  if (module.expert >= 0) axis(module.expert, module.expert_count);
  if (offsets.empty()) axis(0, 1);
  return format("{}._extra_state/shard_{}_{}", key, join(offsets, "."), join(counts, "."));
}

Dialect dialect_of(const RuleTable& table) {
  return {Container::torch_dist, table.homogeneous ? LayerKeys::stacked : LayerKeys::numbered};
}

}  // namespace ponte
