// `ponte recipes`: which there are, what one says, and the reference of all configuration keys.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>

#include "base/errors.h"
#include "cli/commands.h"
#include "config/reference.h"
#include "families/registry.h"
#include "recipes/recipes.h"
#include "recipes/resolve.h"

namespace ponte {
namespace {

void print(const std::string& text) { std::fwrite(text.data(), 1, text.size(), stdout); }

const char* mode_name(RecipeMode mode) { return mode == RecipeMode::pretrain ? "pretrain" : mode == RecipeMode::sft ? "full SFT" : "LoRA"; }

int list_recipes(const Arguments& arguments) {
  CLI::App app("All recipes: model, mode, tensor x pipeline x context ranks, batch, steps.", "ponte recipes list");
  if (parse_arguments(app, arguments) == Parsed::done) return 0;
  size_t width = 0;  // of the longest name
  for (const Recipe& recipe : recipes()) width = std::max(width, recipe.name.size());
  const auto padded = [width](std::string_view name) { return std::string(name) + std::string(width - std::min(width, name.size()), ' '); };
  print(format("{} {:8} {:>12} {:>5} {:>6} {:>6}  {}\n", padded("recipe"), "mode", "TP x PP x CP", "batch", "length", "steps", "model"));
  for (const Recipe& recipe : recipes()) {
    const Config c = recipe_config(recipe);
    const std::string layout =
        format("{} x {} x {}", c.model.tensor_model_parallel_size, c.model.pipeline_model_parallel_size, c.model.context_parallel_size);
    print(format("{} {:8} {:>12} {:>5} {:>6} {:>6}  {}\n", padded(recipe.name), mode_name(recipe.mode), layout, c.train.global_batch_size,
                 c.model.seq_length, c.train.train_iters, recipe.model->hf_id));
  }
  print("\n<model>_finetune_config is the LoRA recipe, with peft=null the full SFT one.\n`ponte recipes show NAME` prints a recipe as YAML.\n");
  return 0;
}

// "2,946,349,472 (2.95 billion)"
std::string counted(int64_t n) {
  std::string digits = std::to_string(n);
  for (int64_t at = std::ssize(digits) - 3; at > 0; at -= 3) digits.insert(static_cast<size_t>(at), ",");
  return format("{} ({:.2f} billion)", digits, static_cast<double>(n) / 1e9);
}

int show_recipe(const Arguments& arguments) {
  CLI::App app("A recipe resolved, as YAML that --config-file reads, headed by the number of its parameters.", "ponte recipes show");
  RunRequest request;
  app.add_option("NAME", request.recipe, "name of the recipe")->required();
  app.add_option("OVERRIDES", request.overrides, "section.key=value ...");
  app.add_option("--layout", request.layout, "documentation: the parallel sizes of Megatron Bridge's Qwen page");
  bool origins = false;
  app.add_flag("--origins", origins, "with the origin of every value");
  if (parse_arguments(app, arguments) == Parsed::done) return 0;
  const ResolvedRun run = resolve_run(request);
  const ParameterCount count = count_parameters(run.config.model);
  print(format("# {}: {} parameters", request.recipe, counted(count.total)));
  if (count.active != count.total) print(format(", {} of them active for each token", counted(count.active)));
  if (count.prediction) print(format("; {} more in multi-token prediction layers", counted(count.prediction)));
  print("\n");
  print(origins ? effective_config(run) : config_yaml(run.config));
  return 0;
}

int print_reference(const Arguments& arguments) {
  CLI::App app("docs/configuration.md: every key, its default and its meaning.", "ponte recipes docs");
  if (parse_arguments(app, arguments) == Parsed::done) return 0;
  print(configuration_reference());
  return 0;
}

}  // namespace

int run_recipes(const Arguments& arguments) {
  const Arguments rest(arguments.begin() + (arguments.empty() ? 0 : 1), arguments.end());
  const std::string what = arguments.empty() ? "--help" : arguments[0];
  if (what == "list") return list_recipes(rest);
  if (what == "show") return show_recipe(rest);
  if (what == "docs") return print_reference(rest);
  require(what == "--help" || what == "-h", "ponte recipes {}: there are list, show NAME and docs", what);
  print("usage: ponte recipes list | show NAME [section.key=value ...] | docs\n\n  list   all recipes in a table\n  show   one, resolved, as YAML\n"
        "  docs   the reference of all configuration keys (docs/configuration.md)\n");
  return 0;
}

}  // namespace ponte
