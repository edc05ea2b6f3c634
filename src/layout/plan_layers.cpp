#include "layout/plan_layers.h"

#include <algorithm>
#include <map>

#include "base/errors.h"
#include "base/format.h"
#include "families/registry.h"

namespace ponte {
namespace {

int64_t elements_of(const Shape& shape) {
  int64_t out = 1;
  for (const int64_t extent : shape) out *= extent;
  return out;
}

struct LayerRules {
  LayerClass layer;
  std::string key;  // leaves and shapes
};

// Consecutive rules of one layer.
LayerRules collect(const std::vector<Rule>& rules, size_t& at) {
  LayerRules out;
  const Rule& first = rules[at];
  for (; at < rules.size() && rules[at].stack == first.stack && rules[at].layer == first.layer; ++at) {
    const Rule& rule = rules[at];
    out.layer.experts = std::max(out.layer.experts, rule.expert_count);
    if (rule.expert > 0) continue;
    out.layer.rules.push_back(&rule);
    out.key += rule.leaf;
    for (const int64_t extent : rule.shape) out.key += ' ' + std::to_string(extent);
    out.key += ';';
  }
  return out;
}

double token_share(const Rule& rule, const ModelConfig& config) {
  return rule.expert >= 0 ? static_cast<double>(config.moe_router_topk) / static_cast<double>(config.num_moe_experts) : 1.0;
}

// Two matrices of rank `dim` beside a targeted one of this shape; canonical LoRA has one pair for each of its segments; DoRA a magnitude for each row.
int64_t adapter_elements(const Rule& rule, const Shape& shape, const PeftConfig& peft) {
  if (shape.size() != 2) return 0;
  const std::vector<std::string> parts = split(rule.leaf, '.');
  const std::string& module = parts.size() > 1 ? parts[parts.size() - 2] : parts[0];
  const auto named = [&](const std::vector<std::string>& list) { return std::find(list.begin(), list.end(), module) != list.end(); };
  if (!named(peft.target_modules) || named(peft.exclude_modules)) return 0;
  const int64_t pairs = peft.scheme == "canonical_lora" ? (module == "linear_qkv" ? 3 : static_cast<int64_t>(rule.segments.size())) : 1;
  return peft.dim * (pairs * shape[1] + shape[0]) + (peft.scheme == "dora" ? shape[0] : 0);
}

// The class's widths, read off the shapes of its slices.
void read_widths(LocalLayer& out, const LayerClass& layer, const LayerShards& shards, const ModelConfig& config) {
  const auto shape = [&](std::string_view leaf) {
    const Rule* rule = layer.find(leaf);
    return rule ? slice_of(*rule, rule->expert >= 0 ? shards.expert_tensor : shards.tensor).shape : Shape{0, 0};
  };
  out.head_dim = config.kv_channels;
  out.projection = shape("self_attention.linear_qkv.weight")[0];
  out.heads_width = shape("self_attention.linear_proj.weight")[1];
  out.output_gate = config.attention_output_gate && out.projection > 0;
  out.keys_width = (out.projection - out.heads_width * (out.output_gate ? 2 : 1)) / 2;
  out.head_norms = layer.find("self_attention.q_layernorm.weight") != nullptr;
  out.delta_projection = shape("self_attention.in_proj.weight")[0];
  out.delta_convolution = shape("self_attention.conv1d.weight")[0];
  out.delta_values = shape("self_attention.out_proj.weight")[1];
  out.delta_heads = shape("self_attention.A_log")[0];
  out.delta_state = out.delta_heads * config.linear_key_head_dim * config.linear_value_head_dim;
  out.delta_key_dim = config.linear_key_head_dim;
  out.delta_taps = config.linear_conv_kernel_dim - 1;
  out.ffn = shape("mlp.linear_fc2.weight")[1];
  out.expert_ffn = shape("mlp.experts.linear_fc2.weight")[1];
  out.shared_ffn = shape("mlp.shared_experts.linear_fc2.weight")[1];
  out.shared_gate = layer.find("mlp.shared_experts.gate_weight") != nullptr;
  out.prediction = layer.find("eh_proj.weight") != nullptr;
}

}  // namespace

const Rule* LayerClass::find(std::string_view leaf) const {
  for (const Rule* rule : rules) {
    const std::string_view whole = rule->leaf;
    if (whole.ends_with(leaf) && (whole.size() == leaf.size() || whole[whole.size() - leaf.size() - 1] == '.')) return rule;
  }
  return nullptr;
}

ModelLayers::ModelLayers(const ModelConfig& model, const PeftConfig& adapters) : config(model), peft(adapters), table(rule_table(model)) {
  std::map<std::string, size_t> known;
  for (size_t at = 0; at < table.rules.size();) {
    const Rule& rule = table.rules[at];
    if (rule.stack.empty()) {
      (rule.leaf == "embedding.word_embeddings.weight" ? embedding : rule.leaf == "output_layer.weight" ? output : final_norm) = &rule;
      ++at;
      continue;
    }
    LayerRules found = collect(table.rules, at);
    const auto [it, fresh] = known.emplace(std::move(found.key), classes.size());
    if (fresh) classes.push_back(std::move(found.layer));
    (rule.stack == "mtp.layers" ? prediction : decoder).push_back(it->second);
  }
  PONTE_ASSERT(embedding && final_norm && static_cast<int64_t>(decoder.size()) == config.num_layers);
  double active = 0;
  for (const Rule& rule : table.rules) {
    parameters += elements_of(rule.shape);
    active += token_share(rule, config) * static_cast<double>(elements_of(rule.shape));
  }
  active_parameters = static_cast<int64_t>(active);
  training_flops_per_token = ponte::training_flops_per_token(config, table.rules, config.seq_length);
}

LayerShards layer_shards(const ModelConfig& c) {
  const int64_t expert_tensor = c.expert_tensor_parallel_size ? c.expert_tensor_parallel_size : c.tensor_model_parallel_size;
  return {{0, c.tensor_model_parallel_size, c.sequence_parallel}, {0, expert_tensor, false}, c.expert_model_parallel_size};
}

WeightCount operator+(const WeightCount& a, const WeightCount& b) {
  return {a.dense + b.dense, a.fp32 + b.fp32, a.expert + b.expert, a.frozen + b.frozen, a.base + b.base, a.summed + b.summed, a.tied + b.tied,
          a.with_sharers + b.with_sharers};
}

LocalLayer local_layer(const ModelLayers& layers, size_t layer_class, const LayerShards& shards) {
  const LayerClass& layer = layers.classes[layer_class];
  LocalLayer out;
  out.hidden = layers.config.hidden_size;
  out.experts = layer.experts;
  out.local_experts = layer.experts / shards.expert;
  out.choices = layer.experts ? layers.config.moe_router_topk : 0;
  read_widths(out, layer, shards, layers.config);
  for (const Rule* rule : layer.rules) {
    const bool expert = rule->expert >= 0;
    const Slice slice = slice_of(*rule, expert ? shards.expert_tensor : shards.tensor);
    const Shape& shape = slice.shape;
    const int64_t elements = elements_of(shape);
    if (layers.all_trained() && slice.gradient == GradientReduction::sum_tensor_parallel && rule->is_optimized()) out.weights.summed += elements;
    if (layers.all_trained() && slice.gradient == GradientReduction::sum_sharers) out.weights.with_sharers += elements;
    const Flops flops = forward_flops(*rule, shape, layers.config, layers.config.seq_length);
    int64_t& largest = expert ? out.largest_expert_matrix : out.largest_matrix;
    if (shape.size() == 2) largest = std::max(largest, elements);
    const int64_t copies = expert ? out.local_experts : 1;
    if (expert) {
      out.expert_flops += flops.matrix;
    } else {
      Flops& sum = rule->segments[0].shard_dim == kReplicated ? out.replicated_flops : out.flops;
      sum = sum + flops;
    }
    if (!layers.all_trained()) {
      out.weights.base += elements * copies;
      (expert ? out.weights.expert : out.weights.dense) += adapter_elements(*rule, shape, layers.peft) * copies;
    } else if (expert) {
      out.weights.expert += elements * copies;
    } else {
      (!rule->is_optimized() ? out.weights.frozen : rule->precision == Precision::fp32 ? out.weights.fp32 : out.weights.dense) += elements;
    }
  }
  return out;
}

int64_t local_elements(const Rule& rule, const TensorParallel& tensor_parallel) { return elements_of(slice_of(rule, tensor_parallel).shape); }

}  // namespace ponte
