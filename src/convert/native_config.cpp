// Field names as in Megatron Bridge's GPTModelProvider (run_config.yaml, section model) and Megatron-LM's arguments.
#include "convert/native_config.h"

#include <yaml-cpp/yaml.h>

#include <functional>
#include <nlohmann/json.hpp>

#include "base/errors.h"
#include "config/layer_patterns.h"
#include "families/registry.h"

namespace ponte {
namespace {

// One document of Megatron settings, whatever its syntax: each getter is nullopt when the field is absent or null.
struct Settings {
  std::string origin;
  std::function<std::optional<double>(const char*)> number;
  std::function<std::optional<bool>(const char*)> flag;
  std::function<std::optional<std::string>(const char*)> text;
  std::function<std::vector<int64_t>(const char*)> sizes;  // a list; empty when the field is none

  int64_t size(const char* key) const {
    const auto value = number(key);
    require(value && *value > 0 && *value < 4294967296.0, "{}: '{}' is {}, wanted a positive size", origin, key, value ? format("{}", *value) : "missing");
    return static_cast<int64_t>(*value);
  }
  // One number for each layer: a list, or the expression that Megatron-LM's command line has for it.
  std::vector<int64_t> layers(const char* key) const {
    const auto said = text(key);
    return said && is_layer_expression(*said) ? layer_expression(*said, format("{}: '{}'", origin, key)) : sizes(key);
  }
  int64_t size_or(const char* key, int64_t fallback) const { return number(key) ? size(key) : fallback; }
  double number_or(const char* key, double fallback) const { return number(key).value_or(fallback); }
  bool flag_or(const char* key, bool fallback) const { return flag(key).value_or(fallback); }
};

void read_rope(const Settings& s, ModelConfig& c) {
  c.rotary_base = s.number_or("rotary_base", 10000.0);
  c.rotary_percent = s.number_or("rotary_percent", 1.0);
  const std::string kind = s.text("position_embedding_type").value_or("rope");
  require(kind == "rope" || kind == "yarn", "{}: position_embedding_type '{}' is not supported; supported: rope, yarn", s.origin, kind);
  c.position_embedding_type = kind;
  if (kind == "yarn") {
    c.rope_scaling_type = "yarn";
    c.rope_scaling_factor = s.number_or("yarn_rotary_scaling_factor", 1.0);
    c.original_max_position_embeddings = s.size_or("yarn_original_max_position_embeddings", 0);
    c.yarn_beta_fast = s.number_or("yarn_beta_fast", 32.0);
    c.yarn_beta_slow = s.number_or("yarn_beta_slow", 1.0);
    c.yarn_mscale = s.number("yarn_mscale");
    c.yarn_mscale_all_dim = s.number("yarn_mscale_all_dim");
    c.yarn_truncate = s.flag_or("yarn_correction_range_round_to_int", true);
  } else if (s.flag_or("rope_scaling", false)) {
    c.rope_scaling_type = "llama3";  // Megatron's constants for Llama 3 scaling
    c.rope_scaling_factor = s.number_or("rope_scaling_factor", 8.0);
    c.rope_low_freq_factor = 1.0;
    c.rope_high_freq_factor = 4.0;
    c.original_max_position_embeddings = 8192;
  } else if (const auto factor = s.number("seq_len_interpolation_factor"); factor && *factor != 1.0) {
    c.rope_scaling_type = "linear";
    c.rope_scaling_factor = *factor;
  }
}

// Megatron Bridge says num_moe_experts, Megatron-LM num_experts.
void read_experts(const Settings& s, ModelConfig& c) {
  c.num_moe_experts = static_cast<int64_t>(s.number("num_moe_experts").value_or(s.number_or("num_experts", 0)));
  if (c.num_moe_experts == 0) return;
  require(c.num_moe_experts > 0 && c.num_moe_experts <= 65536, "{}: {} experts", s.origin, c.num_moe_experts);
  c.moe_ffn_hidden_size = s.size_or("moe_ffn_hidden_size", c.ffn_hidden_size);
  c.moe_router_topk = s.size_or("moe_router_topk", 2);
  require(c.moe_router_topk <= c.num_moe_experts, "{}: moe_router_topk is {}, of {} experts", s.origin, c.moe_router_topk, c.num_moe_experts);
  if (s.number_or("moe_shared_expert_intermediate_size", 0) > 0) c.moe_shared_expert_intermediate_size = s.size("moe_shared_expert_intermediate_size");
  c.moe_shared_expert_gate = s.flag_or("moe_shared_expert_gate", false);
  c.moe_router_pre_softmax = s.flag_or("moe_router_pre_softmax", false);
  c.moe_router_score_function = s.text("moe_router_score_function").value_or("softmax");
  require(c.moe_router_score_function == "softmax" || c.moe_router_score_function == "sigmoid",
          "{}: moe_router_score_function '{}' is not supported; supported: softmax, sigmoid", s.origin, c.moe_router_score_function);
  c.moe_router_topk_scaling_factor = s.number("moe_router_topk_scaling_factor");
  if (s.number_or("moe_router_group_topk", 0) != 0) {  // groups without it limit nothing
    c.moe_router_num_groups = s.size("moe_router_num_groups");
    c.moe_router_group_topk = s.size("moe_router_group_topk");
  }
  c.moe_router_enable_expert_bias = s.flag_or("moe_router_enable_expert_bias", false);
  c.moe_router_load_balancing_type = s.text("moe_router_load_balancing_type").value_or("aux_loss");
  c.moe_aux_loss_coeff = s.number_or("moe_aux_loss_coeff", 0.0);
  c.moe_layer_freq = s.layers("moe_layer_freq");
  const int64_t every = c.moe_layer_freq.empty() ? s.size_or("moe_layer_freq", 1) : 1;
  if (every > 1) c.moe_layer_freq = periodic_expert_layers(c.num_layers, every);
  require(c.moe_layer_freq.empty() || static_cast<int64_t>(c.moe_layer_freq.size()) == c.num_layers, "{}: moe_layer_freq has {} entries for {} layers",
          s.origin, c.moe_layer_freq.size(), c.num_layers);
}

// linear_attention_freq: a number n (every n-th layer has full attention) or a list of 1 (linear) and 0.
void read_hybrid(const Settings& s, ModelConfig& c) {
  const auto variant = s.text("experimental_attention_variant");
  if (!variant || *variant == "null" || variant->empty()) return;
  require(*variant == "gated_delta_net" || *variant == "gdn", "{}: experimental_attention_variant '{}' is not supported; supported: gated_delta_net", s.origin,
          *variant);
  c.experimental_attention_variant = "gated_delta_net";
  c.linear_conv_kernel_dim = s.size("linear_conv_kernel_dim");
  c.linear_key_head_dim = s.size("linear_key_head_dim");
  c.linear_value_head_dim = s.size("linear_value_head_dim");
  c.linear_num_key_heads = s.size("linear_num_key_heads");
  c.linear_num_value_heads = s.size("linear_num_value_heads");
  require(c.linear_num_value_heads % c.linear_num_key_heads == 0, "{}: {} linear value heads do not divide over {} key heads", s.origin,
          c.linear_num_value_heads, c.linear_num_key_heads);
  const std::vector<int64_t> linear = s.layers("linear_attention_freq");
  if (linear.empty()) {
    c.linear_attention_freq = s.size("linear_attention_freq");
    c.layer_types = periodic_layer_types(c.num_layers, c.linear_attention_freq);
  }
  for (int64_t flag : linear) c.layer_types.push_back(flag != 0 ? "linear_attention" : "full_attention");
  require(static_cast<int64_t>(c.layer_types.size()) == c.num_layers, "{}: linear_attention_freq has {} entries for {} layers", s.origin, c.layer_types.size(),
          c.num_layers);
}

// Qwen3-Next with experts, Qwen3.5 without: the same network, of which Megatron's settings do not say which release it is.
std::string_view hybrid_architecture(const Settings& s, const ModelConfig& c) {
  require(c.qk_layernorm && !c.add_qkv_bias && c.attention_output_gate && c.layernorm_zero_centered_gamma,
          "{}: gated delta nets with qk_layernorm {}, add_qkv_bias {}, attention_output_gate {} and layernorm_zero_centered_gamma {} are no supported family "
          "(Qwen3-Next: true, false, true, true)",
          s.origin, c.qk_layernorm, c.add_qkv_bias, c.attention_output_gate, c.layernorm_zero_centered_gamma);
  return c.num_moe_experts > 0 ? "Qwen3NextForCausalLM" : "Qwen3_5ForCausalLM";
}

std::string_view architecture_of(const Settings& s, const ModelConfig& c) {
  if (!c.experimental_attention_variant.empty()) return hybrid_architecture(s, c);
  if (c.num_moe_experts == 0) return c.qk_layernorm ? "Qwen3ForCausalLM" : "Qwen2ForCausalLM";
  const bool shared = c.moe_shared_expert_intermediate_size > 0;
  require(
      shared == !c.qk_layernorm && c.moe_shared_expert_gate == shared,
      "{}: a mixture of experts with qk_layernorm {}, shared expert {} and shared expert gate {} is neither Qwen2-MoE (no, yes, yes) nor Qwen3-MoE (yes, no, "
      "no)",
      s.origin, c.qk_layernorm, shared, c.moe_shared_expert_gate);
  return c.qk_layernorm ? "Qwen3MoeForCausalLM" : "Qwen2MoeForCausalLM";
}

// The family whose facts these settings are.
void choose_family(const Settings& s, ModelConfig& c) {
  require(s.text("normalization").value_or("RMSNorm") == "RMSNorm" && c.gated_linear_unit, "{}: not an RMSNorm, gated decoder of a supported family", s.origin);
  require(!c.experimental_attention_variant.empty() || c.add_qkv_bias != c.qk_layernorm,
          "{}: add_qkv_bias {} with qk_layernorm {} is neither Qwen2 (bias, no norm) nor Qwen3 (norm, no bias)", s.origin, c.add_qkv_bias,
          c.qk_layernorm);
  const Family& family = family_of(architecture_of(s, c));
  c.hf_architecture = family.architecture;
  c.model_type = family.model_type;
}

ModelConfig read_settings(const Settings& s) {
  ModelConfig c;
  c.num_layers = s.size("num_layers");
  c.hidden_size = s.size("hidden_size");
  c.num_attention_heads = s.size("num_attention_heads");
  c.num_query_groups = s.size_or("num_query_groups", c.num_attention_heads);
  require(c.num_attention_heads % c.num_query_groups == 0, "{}: {} attention heads do not divide over {} query groups", s.origin, c.num_attention_heads,
          c.num_query_groups);
  c.kv_channels = s.size_or("kv_channels", c.hidden_size / c.num_attention_heads);
  c.ffn_hidden_size = s.size("ffn_hidden_size");
  c.vocab_size = s.size_or("vocab_size", s.size_or("padded_vocab_size", 0));
  c.seq_length = s.size_or("seq_length", 4096);
  c.max_position_embeddings = s.size_or("max_position_embeddings", c.seq_length);
  c.layernorm_epsilon = s.number_or("layernorm_epsilon", s.number_or("norm_epsilon", 1e-5));
  c.init_method_std = s.number_or("init_method_std", 0.02);
  c.attention_dropout = s.number_or("attention_dropout", 0.0);
  c.gated_linear_unit = s.flag_or("gated_linear_unit", s.flag_or("swiglu", false));
  c.add_qkv_bias = s.flag_or("add_qkv_bias", false);
  c.qk_layernorm = s.flag_or("qk_layernorm", false);
  c.layernorm_zero_centered_gamma = s.flag_or("layernorm_zero_centered_gamma", s.flag_or("apply_layernorm_1p", false));
  c.attention_output_gate = s.flag_or("attention_output_gate", false);
  c.share_embeddings_and_output_weights = s.flag_or("share_embeddings_and_output_weights", !s.flag_or("untie_embeddings_and_output_weights", true));
  c.bf16 = s.flag_or("bf16", false);
  c.fp16 = s.flag_or("fp16", false);
  c.params_dtype = c.bf16 ? DType::bf16 : c.fp16 ? DType::f16 : DType::f32;
  read_rope(s, c);
  read_experts(s, c);
  read_hybrid(s, c);
  choose_family(s, c);
  return c;
}

Settings yaml_settings(const YAML::Node& model, const std::string& origin) {
  auto scalar = [model](const char* key) -> std::optional<std::string> {
    const YAML::Node node = model[key];
    if (!node || !node.IsScalar()) return std::nullopt;
    return node.Scalar();
  };
  Settings s;
  s.origin = origin;
  s.text = scalar;
  s.number = [scalar, origin](const char* key) -> std::optional<double> {
    const auto text = scalar(key);
    if (!text || *text == "null" || *text == "~") return std::nullopt;
    try {
      return YAML::Load(*text).as<double>();
    } catch (const YAML::Exception&) {
      fail("{}: '{}' is '{}', wanted a number", origin, key, *text);
    }
  };
  s.flag = [scalar](const char* key) -> std::optional<bool> {
    const auto text = scalar(key);
    if (!text || (*text != "true" && *text != "false")) return std::nullopt;
    return *text == "true";
  };
  s.sizes = [model, origin](const char* key) {
    std::vector<int64_t> out;
    const YAML::Node node = model[key];
    if (!node || !node.IsSequence()) return out;
    try {
      for (const YAML::Node& item : node) out.push_back(item.as<int64_t>());
    } catch (const YAML::Exception&) {
      fail("{}: '{}' is no list of integers", origin, key);
    }
    return out;
  };
  return s;
}

Settings argument_settings(const Value& args, const std::string& origin) {
  auto field = [args](const char* key) -> const Value* {
    const Value* v = args.find(key);
    return v && !v->is_none() ? v : nullptr;
  };
  Settings s;
  s.origin = origin;
  s.text = [field, origin](const char* key) -> std::optional<std::string> {
    const Value* v = field(key);
    return v && v->kind() == Value::Kind::text ? std::optional(v->as_text(origin)) : std::nullopt;
  };
  s.number = [field, origin](const char* key) -> std::optional<double> {
    const Value* v = field(key);
    return v && (v->kind() == Value::Kind::integer || v->kind() == Value::Kind::real) ? std::optional(v->as_number(origin)) : std::nullopt;
  };
  s.flag = [field, origin](const char* key) -> std::optional<bool> {
    const Value* v = field(key);
    return v && v->kind() == Value::Kind::boolean ? std::optional(v->as_boolean(origin)) : std::nullopt;
  };
  s.sizes = [field, origin](const char* key) {
    std::vector<int64_t> out;
    const Value* v = field(key);
    if (!v || v->kind() != Value::Kind::list) return out;
    for (const Value& item : v->items(origin)) out.push_back(item.as_integer(origin));
    return out;
  };
  return s;
}

YAML::Node load_yaml(const fs::path& file) {
  try {
    return YAML::Load(read_file(file));
  } catch (const YAML::Exception& e) {
    fail("{}: not valid YAML: {}", file, e.what());
  }
}

ModelConfig from_run_config(const fs::path& file) {
  const YAML::Node document = load_yaml(file);
  require(document.IsMap() && document["model"] && document["model"].IsMap(), "{}: no 'model' section", file);
  return read_settings(yaml_settings(document["model"], file.string()));
}

}  // namespace

bool run_config_flag(const fs::path& directory, const char* section, const char* key) {
  const fs::path file = directory / "run_config.yaml";
  if (!fs::exists(file)) return false;
  const YAML::Node document = load_yaml(file);
  if (!document.IsMap() || !document[section] || !document[section].IsMap() || !document[section][key]) return false;
  const YAML::Node value = document[section][key];
  return value.IsScalar() && value.Scalar() == "true";
}

ModelConfig native_model_config(const fs::path& directory, const TorchDistReader& reader) {
  const fs::path kept = directory / kKeptFolder / "config.json", run_config = directory / "run_config.yaml";
  if (fs::exists(kept)) return model_config_from_hf(kept);
  if (fs::exists(run_config)) return from_run_config(run_config);
  const std::optional<Value> common = reader.common_state();
  const Value* args = common ? common->find("args") : nullptr;
  require(args != nullptr, "{}: neither run_config.yaml nor Megatron-LM's arguments are in it, so its architecture is unknown; give --hf-model", directory);
  const Settings settings = argument_settings(*args, directory.string() + ": args");
  require(settings.number("num_layers").has_value(), "{}: its writer's arguments hold no architecture (ms-swift's do not); give --hf-model{}", directory,
          settings.text("model") ? format(" {}, the model they name", *settings.text("model")) : ", the model it was made from");
  return read_settings(settings);
}

}  // namespace ponte
