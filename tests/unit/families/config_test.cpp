// HF configurations to model configurations and back.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/errors.h"
#include "families/registry.h"

namespace ponte {
namespace {

const Json kQwen3 = parse_json(R"({
  "architectures": ["Qwen3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 1, "dtype": "bfloat16",
  "head_dim": 32, "hidden_act": "silu", "hidden_size": 64, "initializer_range": 0.02, "intermediate_size": 128, "max_position_embeddings": 256,
  "max_window_layers": 28, "model_type": "qwen3", "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 2, "rms_norm_eps": 1e-06,
  "rope_parameters": {"rope_theta": 5000.0, "rope_type": "default"}, "sliding_window": null, "tie_word_embeddings": true,
  "transformers_version": "5.12.1", "use_sliding_window": false, "vocab_size": 512})", "qwen3");

Json with(Json base, const Json& changes) {
  for (const auto& [key, value] : changes.items()) base[key] = value;
  return base;
}

std::string error_of(const Json& hf) {
  try {
    model_config_from_hf(hf, "config.json");
  } catch (const UserError& e) {
    return e.what();
  }
  return "";
}

TEST(HfConfig, Qwen3Fields) {
  const ModelConfig c = model_config_from_hf(kQwen3, "config.json");
  EXPECT_EQ(c.num_layers, 2);
  EXPECT_EQ(c.kv_channels, 32);
  EXPECT_EQ(c.num_query_groups, 2);
  EXPECT_EQ(c.ffn_hidden_size, 128);
  EXPECT_EQ(c.rotary_base, 5000.0);
  EXPECT_EQ(c.rope_scaling_type, "none");
  EXPECT_EQ(c.params_dtype, DType::bf16);
  EXPECT_TRUE(c.bf16 && c.qk_layernorm && !c.add_qkv_bias && c.share_embeddings_and_output_weights);
}

TEST(HfConfig, AbsentFieldsTakeTransformersDefaults) {
  Json hf = with(kQwen3, {{"architectures", {"Qwen2ForCausalLM"}}});
  for (const char* key : {"head_dim", "num_key_value_heads", "rope_parameters", "tie_word_embeddings", "dtype"}) hf.erase(key);
  hf["rope_theta"] = 1e6;
  hf["torch_dtype"] = "float16";
  const ModelConfig c = model_config_from_hf(hf, "config.json");
  EXPECT_EQ(c.kv_channels, 16);
  EXPECT_EQ(c.num_query_groups, 4);
  EXPECT_EQ(c.rotary_base, 1e6);
  EXPECT_EQ(c.params_dtype, DType::f16);
  EXPECT_TRUE(c.add_qkv_bias && !c.qk_layernorm && !c.share_embeddings_and_output_weights);
}

TEST(HfConfig, RopeScalingInBothSpellings) {
  const Json scaling = {{"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 64}, {"beta_fast", 16.0}, {"attention_factor", 1.5}};
  Json release5 = kQwen3, release4 = kQwen3;
  release5["rope_parameters"] = scaling;
  release5["rope_parameters"]["rope_theta"] = 7000.0;
  release4.erase("rope_parameters");
  release4["rope_theta"] = 7000.0;
  release4["rope_scaling"] = scaling;
  for (const Json& hf : {release5, release4}) {
    const ModelConfig c = model_config_from_hf(hf, "config.json");
    EXPECT_EQ(c.rotary_base, 7000.0);
    EXPECT_EQ(c.position_embedding_type, "yarn");
    EXPECT_EQ(c.rope_scaling_factor, 4.0);
    EXPECT_EQ(c.original_max_position_embeddings, 64);
    EXPECT_EQ(c.yarn_beta_fast, 16.0);
    EXPECT_EQ(c.yarn_beta_slow, 1.0);
    EXPECT_EQ(c.yarn_attention_factor, 1.5);
  }
  Json both = release4;
  both["rope_parameters"] = release5["rope_parameters"];
  EXPECT_EQ(model_config_from_hf(both, "config.json").rope_scaling_factor, 4.0);
  both["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 7000.0}};  // a guide's advice followed in a newer file
  EXPECT_NE(error_of(both).find("config.json: 'rope_scaling' and 'rope_parameters' contradict each other"), std::string::npos) << error_of(both);
  const ModelConfig llama3 = model_config_from_hf(
      with(release4, {{"rope_scaling", {{"type", "llama3"}, {"factor", 8.0}, {"low_freq_factor", 1.0}, {"high_freq_factor", 4.0},
                                        {"original_max_position_embeddings", 8192}}}}), "config.json");
  EXPECT_EQ(llama3.rope_scaling_type, "llama3");
  EXPECT_EQ(llama3.original_max_position_embeddings, 8192);
  EXPECT_EQ(model_config_from_hf(with(release4, {{"rope_scaling", {{"type", "linear"}, {"factor", 2.0}}}}), "config.json").rope_scaling_factor, 2.0);
}

TEST(HfConfig, SlidingWindow) {
  const Json window = {{"use_sliding_window", true}, {"sliding_window", 32}, {"max_window_layers", 1}};
  const ModelConfig c = model_config_from_hf(with(kQwen3, window), "config.json");
  EXPECT_EQ(c.window_size, 32);
  EXPECT_EQ(c.layer_types, (std::vector<std::string>{"full_attention", "sliding_attention"}));
  EXPECT_FALSE(model_config_from_hf(with(kQwen3, {{"sliding_window", 32}}), "config.json").window_size);
}

// What was read is written back to the letter; what changed is changed in the document's own spelling.
TEST(HfConfig, WrittenBackUnchangedExceptWhatChanged) {
  ModelConfig c = model_config_from_hf(kQwen3, "config.json");
  EXPECT_EQ(hf_config_from_model(c), kQwen3);
  c.rotary_base = 6000.0;
  c.params_dtype = DType::f32;
  c.num_layers = 3;
  Json want = with(kQwen3, {{"dtype", "float32"}, {"num_hidden_layers", 3}});
  want["rope_parameters"]["rope_theta"] = 6000.0;
  EXPECT_EQ(hf_config_from_model(c), want);
}

TEST(HfConfig, FreshDocumentReadsBackAsTheSameModel) {
  Json hf = with(kQwen3, {{"use_sliding_window", true}, {"sliding_window", 32}, {"max_window_layers", 1}});
  hf["rope_parameters"] = {{"rope_type", "yarn"}, {"rope_theta", 9.0}, {"factor", 4.0}, {"original_max_position_embeddings", 64}, {"truncate", false}};
  ModelConfig c = model_config_from_hf(hf, "config.json");
  c.hf_config_json.clear();
  const Json fresh = hf_config_from_model(c);
  ModelConfig back = model_config_from_hf(fresh, "fresh");
  back.hf_config_json.clear();
  EXPECT_EQ(hf_config_from_model(back), fresh);
  EXPECT_EQ(back.kv_channels, c.kv_channels);
  EXPECT_EQ(back.window_size, c.window_size);
  EXPECT_EQ(back.layer_types, c.layer_types);
  EXPECT_EQ(back.yarn_truncate, false);
  EXPECT_EQ(back.rotary_base, 9.0);
}

TEST(HfConfig, BadDocumentsAreErrorsThatNameTheField) {
  const std::pair<Json, const char*> cases[] = {
      {Json::array(), "not a JSON object"},
      {Json::object(), "'architectures' is missing"},
      {with(kQwen3, {{"architectures", {"LlamaForCausalLM"}}}), "supported: Qwen2ForCausalLM, Qwen3ForCausalLM"},
      {with(kQwen3, {{"hidden_size", 0}}), "'hidden_size' is 0"},
      {with(kQwen3, {{"hidden_size", "64"}}), "'hidden_size' is \"64\", wanted an integer"},
      {with(kQwen3, {{"vocab_size", int64_t{1} << 40}}), "'vocab_size' is 1099511627776"},
      {with(kQwen3, {{"num_hidden_layers", -1}}), "'num_hidden_layers' is -1"},
      {with(kQwen3, {{"num_hidden_layers", 1000000}}), "wanted at most 10000"},
      {with(kQwen3, {{"num_key_value_heads", 3}}), "4 attention heads do not divide over 3"},
      {with(kQwen3, {{"hidden_act", "gelu"}}), "hidden_act 'gelu'"},
      {with(kQwen3, {{"attention_bias", true}}), "attention_bias"},
      {with(kQwen3, {{"quantization_config", {{"quant_method", "fp8"}}}}), "quantised"},
      {with(kQwen3, {{"rope_parameters", {{"rope_type", "longrope"}, {"factor", 2.0}}}}), "rope type 'longrope'"},
      {with(kQwen3, {{"rope_parameters", {{"rope_type", "linear"}, {"factor", 0.0}}}}), "'factor' is 0, wanted a positive number"},
      {with(kQwen3, {{"rope_parameters", {{"rope_type", "linear"}}}}), "'factor' is missing"},
      {with(kQwen3, {{"use_sliding_window", true}, {"sliding_window", 8}, {"layer_types", {"full_attention"}}}), "1 layer_types for 2 layers"},
      {with(kQwen3, {{"use_sliding_window", true}, {"sliding_window", 8}, {"layer_types", {"a", "b"}}}), "layer type \"a\""},
      {with(kQwen3, {{"dtype", "int7"}}), "int7"},
  };
  for (const auto& [hf, wanted] : cases) EXPECT_NE(error_of(hf).find(wanted), std::string::npos) << wanted << "\n got: " << error_of(hf);
}

}  // namespace
}  // namespace ponte
