// A recipe by name.
#include <algorithm>

#include "base/errors.h"
#include "recipes/recipes.h"

namespace ponte {
namespace {

constexpr std::string_view kFinetune = "_finetune_config";

const char* mode_suffix(RecipeMode mode) {
  return mode == RecipeMode::pretrain ? "_pretrain_config" : mode == RecipeMode::sft ? "_sft_config" : "_peft_config";
}

}  // namespace

const Recipe& find_recipe(std::string_view given, RecipeMode finetune_mode) {
  std::string name(given);
  std::replace(name.begin(), name.end(), '-', '_');
  // Models without an adapter recipe are fine-tuned whole.
  const auto exists = [](const std::string& wanted) { return std::ranges::any_of(recipes(), [&](const Recipe& recipe) { return recipe.name == wanted; }); };
  const auto in_mode = [&](RecipeMode mode) { return name.substr(0, name.size() - kFinetune.size()) + mode_suffix(mode); };
  std::vector<std::string> names;
  std::string wanted = name;
  if (name.ends_with(kFinetune)) wanted = in_mode(exists(in_mode(finetune_mode)) ? finetune_mode : RecipeMode::sft);
  for (const Recipe& recipe : recipes()) {
    if (recipe.name == wanted) return recipe;
    names.push_back(recipe.name);
    if (recipe.mode == RecipeMode::sft) names.push_back(std::string(recipe.model->name) + std::string(kFinetune));
  }
  const std::string hint = nearest(name, names);
  fail("there is no recipe {}{}; `ponte recipes list` shows all", given, hint.empty() ? "" : "; did you mean " + hint + "?");
}

}  // namespace ponte
