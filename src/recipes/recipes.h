// Recipes: starting points of runs under Megatron Bridge's names (recipes/qwen/*.py), each a delta of a base. `<model>_pretrain_config`,
// `<model>_sft_config`, `<model>_peft_config`, and the older `<model>_finetune_config`, which is the peft recipe (where there is one) unless peft=null
// makes it the sft one. A guide's model (`qwen3_next_3b_fineweb`) is one recipe of its name.
#pragma once
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "config/config.h"

namespace ponte {

enum class RecipeMode { pretrain, sft, peft };

// What a hybrid decoder (families/hybrid_decoder.h) has besides.
struct HybridSizes {
  int64_t key_heads, value_heads, linear_head_dim, shared_ffn;
  std::string_view layers;  // l linear, f full attention; repeated or cut to the model's layers
  double rotary_base, rotary_percent;
};

// The sizes of a published model (its config.json) and how its recipes lay it out over ranks.
struct RecipeModel {
  std::string_view name;    // "qwen3_8b"
  std::string_view hf_id;   // "Qwen/Qwen3-8B"
  std::string_view family;  // HF's model_type: qwen2, qwen3, qwen3_moe
  int64_t layers, hidden, ffn, heads, groups, head_dim, vocab, max_positions;
  bool tied;
  double epsilon;
  int64_t tensor, pipeline;      // pretraining and full fine-tuning
  int64_t peft_tensor;           // adapters; one stage
  int64_t page_tensor, page_peft_tensor;  // the same in the table of Bridge's Qwen page (layout "documentation")
  int64_t experts = 0, experts_per_token = 0, expert_ffn = 0;
  int64_t page_pipeline = 1, page_expert = 1;
  const HybridSizes* hybrid = nullptr;
};

std::span<const RecipeModel> recipe_models();

// `model` section from the table: architecture only.
void set_architecture(ModelConfig& config, const RecipeModel& model);

struct Recipe {
  std::string name;  // "qwen3_8b_pretrain_config"
  const RecipeModel* model;
  RecipeMode mode;
  void (*variant)(Config& config);  // after the mode's own values; nullptr: none
};

const std::vector<Recipe>& recipes();  // without the `_finetune_config` names

// Finds a recipe by any of its names; `_finetune_config` means `finetune_mode`. UserError naming the nearest recipe.
const Recipe& find_recipe(std::string_view name, RecipeMode finetune_mode = RecipeMode::peft);

// Applies recipe and layout ("" or "documentation") to a default configuration.
Config recipe_config(const Recipe& recipe, std::string_view layout = "");

// The bases, after Bridge's _pretrain_common, _sft_common and _peft_common.
void pretrain_base(Config& config);
void sft_base(Config& config);
void peft_base(Config& config);

// --- recipes/qwen_next.cpp ---
extern const HybridSizes kNext80b, kFineweb3b, kFineweb2b, kFineweb5b;
void set_hybrid_architecture(ModelConfig& config, const RecipeModel& model);
void qwen3_next_pretrain(Config& config);
void qwen3_next_finetune(Config& config);
void fineweb_pretrain(Config& config, std::string_view name);

}  // namespace ponte
