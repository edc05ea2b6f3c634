// HF's config.json to ModelConfig and back, for what all decoder families share. Source: transformers' PretrainedConfig, modeling_rope_utils.py, and the
// attribute names of configuration_qwen2.py / configuration_qwen3.py in releases 4 (rope_theta, rope_scaling, torch_dtype) and 5 (rope_parameters, dtype).
#include "families/hf_config.h"

#include <nlohmann/json.hpp>
#include <optional>

#include "base/checked.h"
#include "base/errors.h"
#include "families/registry.h"

namespace ponte {
namespace {

constexpr int64_t kMaxExtent = int64_t{1} << 32;  // any size beyond this is a damaged config, and products of two stay within 64 bits

int64_t size_field(const Json& hf, const char* key, std::string_view origin) {
  const int64_t value = json_get<int64_t>(hf, key, origin);
  require(value > 0 && value < kMaxExtent, "{}: '{}' is {}, wanted a positive size", origin, key, value);
  return value;
}

int64_t size_field_or(const Json& hf, const char* key, int64_t fallback, std::string_view origin) {
  return hf.contains(key) && !hf[key].is_null() ? size_field(hf, key, origin) : fallback;
}

std::optional<double> optional_number(const Json& object, const char* key, std::string_view origin) {
  if (!object.contains(key) || object[key].is_null()) return std::nullopt;
  return json_get<double>(object, key, origin);
}

void read_sizes(const Json& hf, std::string_view origin, ModelConfig& c) {
  c.num_layers = size_field(hf, "num_hidden_layers", origin);
  require(c.num_layers <= 10000, "{}: 'num_hidden_layers' is {}, wanted at most 10000", origin, c.num_layers);
  c.hidden_size = size_field(hf, "hidden_size", origin);
  c.ffn_hidden_size = size_field(
      hf, hf.contains("intermediate_size") || !hf.contains("moe_intermediate_size") ? "intermediate_size" : "moe_intermediate_size", origin);
  c.num_attention_heads = size_field(hf, "num_attention_heads", origin);
  c.num_query_groups = size_field_or(hf, "num_key_value_heads", c.num_attention_heads, origin);
  require(c.num_attention_heads % c.num_query_groups == 0, "{}: {} attention heads do not divide over {} key/value heads", origin, c.num_attention_heads,
          c.num_query_groups);
  if (hf.contains("head_dim") && !hf["head_dim"].is_null()) {
    c.kv_channels = size_field(hf, "head_dim", origin);
  } else {
    require(c.hidden_size % c.num_attention_heads == 0, "{}: hidden_size {} does not divide over {} attention heads, and there is no head_dim", origin,
            c.hidden_size, c.num_attention_heads);
    c.kv_channels = c.hidden_size / c.num_attention_heads;
  }
  c.vocab_size = size_field(hf, "vocab_size", origin);
  c.max_position_embeddings = size_field_or(hf, "max_position_embeddings", 32768, origin);
  c.seq_length = c.max_position_embeddings;
}

// `rope`: rope_scaling of release 4, or rope_parameters of release 5 (which also holds rope_theta).
void read_rope_scaling(const Json& rope, std::string_view origin, ModelConfig& c) {
  const std::string at = format("{}: rope scaling", origin);
  const std::string type = json_get_or<std::string>(rope, "rope_type", json_get_or<std::string>(rope, "type", "default", at), at);
  if (type == "default") return;
  require(type == "linear" || type == "dynamic" || type == "yarn" || type == "llama3",
          "{}: rope type '{}' is not supported; supported: default, linear, dynamic, yarn, llama3", origin, type);
  c.rope_scaling_type = type;
  c.rope_scaling_factor = json_get<double>(rope, "factor", at);
  require(c.rope_scaling_factor > 0, "{}: 'factor' is {}, wanted a positive number", at, c.rope_scaling_factor);
  if (type == "linear") return;
  c.original_max_position_embeddings = size_field_or(rope, "original_max_position_embeddings", c.max_position_embeddings, at);
  if (type == "llama3") {
    c.rope_low_freq_factor = json_get<double>(rope, "low_freq_factor", at);
    c.rope_high_freq_factor = json_get<double>(rope, "high_freq_factor", at);
  }
  if (type == "yarn") {
    c.position_embedding_type = "yarn";
    c.yarn_beta_fast = json_get_or<double>(rope, "beta_fast", 32.0, at);
    c.yarn_beta_slow = json_get_or<double>(rope, "beta_slow", 1.0, at);
    c.yarn_mscale = optional_number(rope, "mscale", at);
    c.yarn_mscale_all_dim = optional_number(rope, "mscale_all_dim", at);
    c.yarn_attention_factor = optional_number(rope, "attention_factor", at);
    c.yarn_truncate = json_get_or<bool>(rope, "truncate", true, at);
  }
}

Json rope_scaling_json(const ModelConfig& c) {
  if (c.rope_scaling_type == "none") return nullptr;
  Json rope = {{"rope_type", c.rope_scaling_type}, {"factor", c.rope_scaling_factor}};
  if (c.rope_scaling_type == "linear") return rope;
  rope["original_max_position_embeddings"] = c.original_max_position_embeddings;
  if (c.rope_scaling_type == "llama3") {
    rope["low_freq_factor"] = c.rope_low_freq_factor;
    rope["high_freq_factor"] = c.rope_high_freq_factor;
  }
  if (c.rope_scaling_type == "yarn") {
    rope["beta_fast"] = c.yarn_beta_fast;
    rope["beta_slow"] = c.yarn_beta_slow;
    if (c.yarn_mscale) rope["mscale"] = *c.yarn_mscale;
    if (c.yarn_mscale_all_dim) rope["mscale_all_dim"] = *c.yarn_mscale_all_dim;
    if (c.yarn_attention_factor) rope["attention_factor"] = *c.yarn_attention_factor;
    if (!c.yarn_truncate) rope["truncate"] = false;
  }
  return rope;
}

void read_positions(const Json& hf, std::string_view origin, ModelConfig& c) {
  const bool release5 = hf.contains("rope_parameters") && !hf["rope_parameters"].is_null();
  const Json& rope = release5 ? hf["rope_parameters"] : hf;
  require(rope.is_object(), "{}: 'rope_parameters' is not an object", origin);
  require(!release5 || !rope.contains("full_attention"), "{}: rope_parameters differ by layer type, which is not supported", origin);
  const double outer = json_get_or<double>(hf, "rope_theta", 10000.0, origin);
  c.rotary_base = json_get_or<double>(rope, "rope_theta", outer, origin);
  c.rotary_percent = json_get_or<double>(rope, "partial_rotary_factor", json_get_or<double>(hf, "partial_rotary_factor", 1.0, origin), origin);
  require(c.rotary_base > 0, "{}: 'rope_theta' is {}, wanted a positive number", origin, c.rotary_base);
  const bool release4 = hf.contains("rope_scaling") && !hf["rope_scaling"].empty();
  ModelConfig older = c;
  if (release4) read_rope_scaling(hf["rope_scaling"], origin, older);
  if (release5) read_rope_scaling(rope, origin, c);
  else if (release4) c = older;
  // transformers 4 reads the one and 5 the other.
  require(!release4 || rope_scaling_json(c) == rope_scaling_json(older),
          "{}: 'rope_scaling' and 'rope_parameters' contradict each other; say it in rope_parameters alone", origin);
}

// The inverse listing: fields every family writes, in the spelling of release 4, which release 5 and the inference engines read too.
Json fresh_config(const ModelConfig& c) {
  Json hf;
  hf["architectures"] = Json::array({c.hf_architecture});
  hf["model_type"] = c.model_type;
  hf["attention_dropout"] = c.attention_dropout;
  hf["hidden_act"] = c.activation_func;
  hf["hidden_size"] = c.hidden_size;
  hf["initializer_range"] = c.init_method_std;
  hf["intermediate_size"] = c.ffn_hidden_size;
  hf["max_position_embeddings"] = c.max_position_embeddings ? c.max_position_embeddings : c.seq_length;
  hf["num_attention_heads"] = c.num_attention_heads;
  hf["num_hidden_layers"] = c.num_layers;
  hf["num_key_value_heads"] = c.num_query_groups;
  hf["rms_norm_eps"] = c.layernorm_epsilon;
  hf["rope_theta"] = c.rotary_base;
  hf["rope_scaling"] = rope_scaling_json(c);
  hf["tie_word_embeddings"] = c.share_embeddings_and_output_weights;
  hf["torch_dtype"] = std::string(torch_name(c.params_dtype).substr(sizeof("torch.") - 1));
  hf["use_cache"] = true;
  hf["vocab_size"] = c.vocab_size;
  family_of(c.hf_architecture).write_config(c, hf);
  return hf;
}

// Writes one changed field into a document that may use release 5's spelling.
void update_field(Json& document, const std::string& key, const Json& value) {
  const bool release5 = document.contains("rope_parameters");
  if (key == "torch_dtype" && document.contains("dtype")) {
    document["dtype"] = value;
  } else if (key == "rope_theta" && release5) {
    document["rope_parameters"]["rope_theta"] = value;
  } else if (key == "rope_scaling" && release5) {
    const Json theta = document["rope_parameters"].value("rope_theta", Json(10000.0));
    document["rope_parameters"] = value.is_null() ? Json{{"rope_type", "default"}} : value;
    document["rope_parameters"]["rope_theta"] = theta;
  } else if (key == "partial_rotary_factor" && release5) {
    document["rope_parameters"][key] = value;
    if (document.contains(key)) document[key] = value;
  } else {
    document[key] = value;
  }
}

}  // namespace

namespace {

bool slides(SlidingLayers rule, int64_t layer, int64_t max_window_layers) {
  return rule == SlidingLayers::from_max_window_layers ? layer >= max_window_layers : layer % 2 == 0 && layer < max_window_layers;
}

}  // namespace

void read_sliding_window(const Json& hf, std::string_view origin, ModelConfig& c, SlidingLayers rule) {
  if (!json_get_or<bool>(hf, "use_sliding_window", false, origin)) return;
  if (hf.contains("sliding_window") && hf["sliding_window"].is_null()) return;
  c.window_size = hf.contains("sliding_window") ? size_field(hf, "sliding_window", origin) : 4096;
  if (hf.contains("layer_types") && !hf["layer_types"].is_null()) {
    require(hf["layer_types"].is_array(), "{}: 'layer_types' is not a list", origin);
    for (const Json& type : hf["layer_types"]) {
      require(type == "full_attention" || type == "sliding_attention", "{}: layer type {} is not one of full_attention, sliding_attention", origin,
              type.dump());
      c.layer_types.push_back(type.get<std::string>());
    }
    require(static_cast<int64_t>(c.layer_types.size()) == c.num_layers, "{}: {} layer_types for {} layers", origin, c.layer_types.size(), c.num_layers);
  } else {
    const int64_t bound = json_get_or<int64_t>(hf, "max_window_layers", 28, origin);
    for (int64_t i = 0; i < c.num_layers; ++i) c.layer_types.push_back(slides(rule, i, bound) ? "sliding_attention" : "full_attention");
  }
}

void write_sliding_window(const ModelConfig& c, Json& hf) {
  hf["use_sliding_window"] = c.window_size.has_value();
  hf["sliding_window"] = c.window_size ? Json(*c.window_size) : Json(nullptr);
  if (!c.layer_types.empty()) hf["layer_types"] = c.layer_types;
}

void write_unusual_head_dim(const ModelConfig& c, Json& hf) {
  if (c.kv_channels * c.num_attention_heads != c.hidden_size) hf["head_dim"] = c.kv_channels;
}

ModelConfig model_config_from_hf(const Json& hf, std::string_view origin) {
  require(hf.is_object(), "{}: not a JSON object", origin);
  require(hf.contains("architectures") && hf["architectures"].is_array() && !hf["architectures"].empty() && hf["architectures"][0].is_string(),
          "{}: 'architectures' is missing; is this a model's config.json?", origin);
  const Family& family = family_of(hf["architectures"][0].get<std::string>());
  require(!hf.contains("quantization_config") || hf["quantization_config"].is_null(),
          "{}: quantised weights ('quantization_config') are not supported; use the bf16 release of the model", origin);
  ModelConfig c;
  c.hf_architecture = family.architecture;
  c.model_type = family.model_type;
  read_sizes(hf, origin, c);
  read_positions(hf, origin, c);
  const std::string activation = json_get_or<std::string>(hf, "hidden_act", "silu", origin);
  require(activation == "silu", "{}: hidden_act '{}' is not supported by {}; supported: silu", origin, activation, family.architecture);
  c.layernorm_epsilon = json_get_or<double>(hf, "rms_norm_eps", 1e-6, origin);
  c.init_method_std = json_get_or<double>(hf, "initializer_range", 0.02, origin);
  c.attention_dropout = json_get_or<double>(hf, "attention_dropout", 0.0, origin);
  c.share_embeddings_and_output_weights = json_get_or<bool>(hf, "tie_word_embeddings", false, origin);
  const std::string dtype = json_get_or<std::string>(hf, "dtype", json_get_or<std::string>(hf, "torch_dtype", "float32", origin), origin);
  c.params_dtype = dtype_from_torch(dtype);
  c.bf16 = c.params_dtype == DType::bf16;
  c.fp16 = c.params_dtype == DType::f16;
  family.read_config(hf, origin, c);
  c.hf_config_json = dump_json(hf);
  return c;
}

ModelConfig model_config_from_hf(const std::filesystem::path& config_json) { return model_config_from_hf(read_json(config_json), config_json.string()); }

Json hf_config_from_model(const ModelConfig& config) {
  const Json now = fresh_config(config);
  if (config.hf_config_json.empty()) return now;
  // Only what changed since the document was read is written into it, so an untouched model keeps its config.json to the letter.
  Json document = parse_json(config.hf_config_json, "the model's config.json");
  const Json before = fresh_config(model_config_from_hf(document, "the model's config.json"));
  // Release configs are often silent about prediction layers their weights have.
  const auto left_to_the_tensors = [&](const std::string& key) {
    return (key == "num_nextn_predict_layers" || key == "mtp_num_hidden_layers") && !document.contains(key);
  };
  for (const auto& [key, value] : now.items())
    if ((!before.contains(key) || before[key] != value) && !left_to_the_tensors(key)) update_field(document, key, value);
  for (const auto& [key, value] : before.items())
    if (!now.contains(key)) document.erase(key);
  return document;
}

}  // namespace ponte
