// Recipes against what Megatron Bridge's own functions return, and that every one can run.
#include "recipes/recipes.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <algorithm>
#include <map>
#include <numeric>
#include <set>

#include "base/errors.h"
#include "base/file.h"
#include "base/json.h"
#include "config/document.h"
#include "families/registry.h"
#include "families/settings.h"

namespace ponte {
namespace {

Json bridge_recipes() { return read_json(fs::path(PONTE_SOURCE_DIR) / "tests/golden/recipes/bridge.json"); }

// Bridge's value, as YAML prints ours.
std::string as_yaml(const Json& value) {
  if (value.is_null()) return "null";
  if (value.is_string()) {
    Config c;
    c.checkpoint.save = value.get<std::string>();
    return config_value(c, "checkpoint.save");
  }
  if (value.is_number_float()) {
    Config c;
    c.optimizer.lr = value.get<double>();
    return value.get<double>() == 0 ? "null" : config_value(c, "optimizer.lr");
  }
  if (value.is_array()) {
    std::string out = "[";
    for (const Json& item : value) out += (out.size() > 1 ? ", " : "") + as_yaml(item);
    return out + "]";
  }
  return value.dump();
}

// Keys where Bridge states what we derive (precision, the data set's length), or what another key of ours says.
bool stated_otherwise(const std::string& key, const Json& value, const Config& config) {
  const bool modules_alone = key == "model.recompute_num_layers" && value.is_null();  // a number of layers belongs to full recompute
  static const std::set<std::string> derived = {"optimizer.bf16", "dataset.seq_length"};
  return modules_alone || derived.contains(key) || (key == "model.recompute_modules") || (key == "tokenizer.vocab_size" && config.tokenizer.vocab_size == 0);
}

TEST(Recipes, EqualBridgesOwnFunctions) {
  int64_t compared = 0, found = 0;
  const Json all = bridge_recipes();
  for (const auto& [name, golden] : all.items()) {
    if (name == "qwen3_600m_sft_yarn_128k_config") continue;  // trains on a conversation data set of its own
    const Config config = recipe_config(find_recipe(name));
    ++found;
    for (const auto& [key, value] : golden.items()) {
      if (key == "hf_model_id") {
        EXPECT_EQ(find_recipe(name).model->hf_id, value.get<std::string>());
        continue;
      }
      if (stated_otherwise(key, value, config)) continue;
      std::string ours = config_value(config, key);
      if (ours == "0.0") ours = "null";
      if (value.is_number_integer() && ours == value.dump() + ".0") ours = value.dump();
      EXPECT_EQ(ours, as_yaml(value)) << name << " " << key;
      ++compared;
    }
  }
  EXPECT_EQ(found, 58);
  EXPECT_GT(compared, 4000);
}

TEST(Recipes, EveryOneResolvesAndIsValid) {
  std::set<std::string> names;
  for (const Recipe& recipe : recipes()) {
    EXPECT_TRUE(names.insert(recipe.name).second) << recipe.name;
    for (const char* layout : {"", "documentation"}) {
      Config config = recipe_config(recipe, layout);
      if (recipe.mode == RecipeMode::peft) config.checkpoint.pretrained_checkpoint = "base";
      const ModelConfig& m = config.model;
      const int64_t stage = std::lcm(m.tensor_model_parallel_size * m.context_parallel_size, m.expert_model_parallel_size);  // experts have tensor size 1
      const int64_t ranks = m.pipeline_model_parallel_size * stage;
      EXPECT_NO_THROW({
        finalize(config, ranks);
        validate(config, ranks);
      }) << recipe.name
         << " " << layout;
    }
  }
  EXPECT_EQ(recipes().size(), 18u * 3 + 4 + 2 + 3);
}

// The table of Bridge's Qwen page: tensor ranks for pretraining and full fine-tuning, then for adapters.
TEST(Recipes, DocumentationLayoutIsThePagesTable) {
  const std::map<std::string, std::pair<int64_t, int64_t>> page = {
      {"qwen2_500m", {1, 1}},  {"qwen2_1p5b", {1, 1}},  {"qwen2_7b", {2, 1}},   {"qwen2_72b", {8, 4}},
      {"qwen25_500m", {1, 1}}, {"qwen25_1p5b", {1, 1}}, {"qwen25_7b", {2, 1}},  {"qwen25_14b", {2, 1}},
      {"qwen25_32b", {4, 2}},  {"qwen25_72b", {8, 4}},  {"qwen3_600m", {1, 1}}, {"qwen3_1p7b", {1, 1}},
      {"qwen3_4b", {1, 1}},    {"qwen3_8b", {2, 1}},    {"qwen3_14b", {2, 1}},  {"qwen3_32b", {4, 2}},
      {"qwen3_30b_a3b", {1, 1}}, {"qwen3_235b_a22b", {2, 2}},
      {"qwen3_next_80b_a3b", {2, 2}}, {"qwen3_next_2b_fineweb", {2, 2}}, {"qwen3_next_3b_fineweb", {2, 2}}, {"qwen3_next_5b_fineweb", {2, 2}}};
  ASSERT_EQ(page.size(), recipe_models().size());
  for (const Recipe& recipe : recipes()) {
    const Config config = recipe_config(recipe, "documentation");
    const auto& [full, peft] = page.at(std::string(recipe.model->name));
    EXPECT_EQ(config.model.tensor_model_parallel_size, recipe.mode == RecipeMode::peft ? peft : full) << recipe.name;
    EXPECT_EQ(config.model.pipeline_model_parallel_size, recipe.model->name == "qwen3_235b_a22b" || recipe.model->name == "qwen3_next_80b_a3b" ? 8 : 1);
  }
}

// Weights of the published models: a size typed wrongly changes the count.
TEST(Recipes, SizesGiveThePublishedParameterCounts) {
  const std::map<std::string, double> billions = {{"qwen2_500m", 0.494},  {"qwen2_1p5b", 1.544},  {"qwen2_7b", 7.616},   {"qwen2_72b", 72.706},
                                                  {"qwen25_500m", 0.494}, {"qwen25_1p5b", 1.544}, {"qwen25_7b", 7.616},  {"qwen25_14b", 14.770},
                                                  {"qwen25_32b", 32.764}, {"qwen25_72b", 72.706}, {"qwen3_600m", 0.596}, {"qwen3_1p7b", 1.721},
                                                  {"qwen3_4b", 4.022},    {"qwen3_8b", 8.191},    {"qwen3_14b", 14.768}, {"qwen3_32b", 32.762},
                                                  {"qwen3_30b_a3b", 30.532}, {"qwen3_235b_a22b", 235.094}};
  for (const RecipeModel& model : recipe_models()) {
    if (model.hybrid) continue;
    ModelConfig m;
    set_architecture(m, model);
    const double qkv = static_cast<double>((m.num_attention_heads + 2 * m.num_query_groups) * m.kv_channels);
    const double hidden = static_cast<double>(m.hidden_size);
    const double feed_forward = m.num_moe_experts
                                    ? static_cast<double>(m.num_moe_experts) * (3.0 * hidden * static_cast<double>(m.moe_ffn_hidden_size) + hidden)
                                    : 3.0 * hidden * static_cast<double>(m.ffn_hidden_size);
    const double layer = hidden * qkv + (m.add_qkv_bias ? qkv : 0) + hidden * static_cast<double>(m.num_attention_heads * m.kv_channels) +
                         feed_forward + 2 * hidden +
                         (m.qk_layernorm ? 2.0 * static_cast<double>(m.kv_channels) : 0);
    const double embeddings = static_cast<double>(m.vocab_size) * hidden * (m.share_embeddings_and_output_weights ? 1 : 2);
    EXPECT_NEAR((static_cast<double>(m.num_layers) * layer + embeddings + hidden) / 1e9, billions.at(std::string(model.name)), 6e-4) << model.name;
  }
}

// By hand: attention and delta nets as transformers' modules have them. The guide's models are its own sizes, 2, 3 and 5 billion.
TEST(Recipes, HybridSizes) {
  struct Row {
    const char* name;
    double total, active;
    int64_t full;  // layers with full attention
  };
  for (const Row& row : {Row{"qwen3_next_80b_a3b", 79.674, 3.875, 12}, Row{"qwen3_next_2b_fineweb", 1.991, 0.781, 6},
                         Row{"qwen3_next_3b_fineweb", 2.946, 1.097, 7}, Row{"qwen3_next_5b_fineweb", 4.921, 1.824, 9}}) {
    const bool guide = std::string_view(row.name).ends_with("fineweb");
    const ModelConfig m = recipe_config(find_recipe(guide ? row.name : std::string(row.name) + "_pretrain_config")).model;
    const ParameterCount count = count_parameters(m);
    EXPECT_NEAR(static_cast<double>(count.total) / 1e9, row.total, 1e-3) << row.name;
    EXPECT_NEAR(static_cast<double>(count.active) / 1e9, row.active, 1e-3) << row.name;
    EXPECT_EQ(std::ranges::count(m.layer_types, "full_attention"), row.full) << row.name;
    EXPECT_EQ(static_cast<int64_t>(m.layer_types.size()), m.num_layers) << row.name;
    EXPECT_EQ(count.prediction > 0, !guide) << row.name;
  }
}

TEST(Recipes, TheGuidesRun) {
  const Config c = recipe_config(find_recipe("qwen3_next_3b_fineweb"));
  EXPECT_EQ((std::vector<int64_t>{c.model.tensor_model_parallel_size, c.train.micro_batch_size, c.train.global_batch_size, c.model.seq_length,
                                  c.model.num_layers, c.model.hidden_size, c.model.num_attention_heads}),
            (std::vector<int64_t>{2, 2, 64, 4096, 24, 2048, 16}));
  const char* guide[] = {"full", "linear", "linear", "full", "linear", "linear", "full", "linear", "linear", "linear", "linear", "full",
                         "linear", "linear", "full", "linear", "linear", "linear", "linear", "full", "linear", "linear", "full", "linear"};
  for (size_t i = 0; i < 24; ++i) EXPECT_EQ(c.model.layer_types[i], std::string(guide[i]) + "_attention") << i;
  EXPECT_TRUE(c.checkpoint.save_best && c.mixed_precision.bf16);
  EXPECT_EQ(find_recipe("qwen3-next-3b-fineweb").name, "qwen3_next_3b_fineweb");
}

TEST(Recipes, NamesOldAndNew) {
  EXPECT_EQ(find_recipe("qwen3_next_80b_a3b_finetune_config").name, "qwen3_next_80b_a3b_sft_config");  // no adapters there

  EXPECT_EQ(find_recipe("qwen3-8b-pretrain-config").name, "qwen3_8b_pretrain_config");
  EXPECT_EQ(find_recipe("qwen3_8b_finetune_config").name, "qwen3_8b_peft_config");
  EXPECT_EQ(find_recipe("qwen3_8b_finetune_config", RecipeMode::sft).name, "qwen3_8b_sft_config");
  try {
    find_recipe("qwen3_8b_pretrain_confg");
    ADD_FAILURE();
  } catch (const UserError& error) {
    EXPECT_NE(std::string(error.what()).find("did you mean qwen3_8b_pretrain_config?"), std::string::npos) << error.what();
  }
}

// Layout, batch and schedule of Bridge's recipes/qwen/h100/qwen3_moe.py.
TEST(Recipes, SparseLayouts) {
  struct Row {
    const char* name;
    int64_t tensor, pipeline, context, expert;
    bool sequence_parallel;
    int64_t micro, global, iterations, warmup;
    double lr, beta2;
  };
  const Row rows[] = {
      {"qwen3_30b_a3b_pretrain_config", 1, 1, 1, 16, false, 1, 1024, 100, 40, 3e-4, 0.95},
      {"qwen3_30b_a3b_pretrain_8gpu_h100_bf16_config", 4, 2, 1, 4, true, 2, 32, 300000, 500, 3e-4, 0.95},
      {"qwen3_30b_a3b_sft_config", 1, 1, 1, 16, false, 1, 32, 100, 10, 5e-6, 0.95},
      {"qwen3_30b_a3b_sft_8gpu_h100_bf16_config", 4, 2, 1, 4, true, 1, 32, 100, 10, 5e-6, 0.95},
      {"qwen3_30b_a3b_peft_config", 4, 1, 1, 4, true, 1, 32, 100, 10, 1e-4, 0.95},
      {"qwen3_next_80b_a3b_pretrain_config", 1, 4, 1, 8, false, 2, 32, 300000, 500, 3e-4, 0.95},
      {"qwen3_next_80b_a3b_sft_config", 1, 2, 1, 8, false, 1, 64, 1000, 50, 5e-6, 0.98},
      {"qwen3_235b_a22b_pretrain_config", 4, 16, 2, 8, true, 1, 32, 300000, 500, 3e-4, 0.95},
      {"qwen3_235b_a22b_sft_config", 4, 16, 1, 4, true, 1, 32, 100, 10, 5e-6, 0.95},
      {"qwen3_235b_a22b_peft_config", 4, 4, 1, 4, true, 1, 32, 100, 10, 1e-4, 0.95},
  };
  for (const Row& row : rows) {
    const Config c = recipe_config(find_recipe(row.name));
    const ModelConfig& m = c.model;
    EXPECT_EQ((std::vector<int64_t>{m.tensor_model_parallel_size, m.pipeline_model_parallel_size, m.context_parallel_size,
                                    m.expert_model_parallel_size, m.sequence_parallel, c.train.micro_batch_size, c.train.global_batch_size,
                                    c.train.train_iters, c.scheduler.lr_warmup_iters}),
              (std::vector<int64_t>{row.tensor, row.pipeline, row.context, row.expert, row.sequence_parallel, row.micro, row.global, row.iterations,
                                    row.warmup}))
        << row.name;
    EXPECT_EQ(c.optimizer.lr, row.lr) << row.name;
    EXPECT_EQ(c.optimizer.adam_beta2, row.beta2) << row.name;
    EXPECT_EQ(m.expert_tensor_parallel_size, 1) << row.name;
    if (m.experimental_attention_variant.empty()) {
      EXPECT_EQ(m.recompute_granularity, std::string_view(row.name).find("pretrain_8gpu") == std::string_view::npos ? "" : "full") << row.name;
    }
  }
}

// Else training would refuse it.
TEST(Recipes, EveryModelCanBeSaidInAConfigJson) {
  for (const Recipe& recipe : recipes()) EXPECT_EQ(settings_config_json_cannot_say(recipe_config(recipe).model), std::vector<std::string>()) << recipe.name;
}

}  // namespace
}  // namespace ponte
