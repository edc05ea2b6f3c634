// Layers of a run's configuration, lowest first.
#include "recipes/resolve.h"

#include <algorithm>
#include <optional>

#include "base/errors.h"
#include "config/field.h"
#include "config/layer_patterns.h"
#include "families/registry.h"
#include "recipes/recipes.h"
#include "text/tokenizer.h"

namespace ponte {
namespace {

constexpr const char* kCommandLine = "command line";

bool is_explicit(const Origins& origins, const std::string& key) {
  const auto it = origins.find(key);
  return it != origins.end() && (it->second.starts_with("file ") || it->second == kCommandLine);
}

// `<model>_finetune_config` is two recipes in one; the last word said about peft on the command line chooses.
RecipeMode finetune_mode(const RunRequest& request) {
  RecipeMode mode = RecipeMode::peft;
  for (const std::string& override_text : request.overrides)
    for (std::string_view key : {"peft=", "peft.scheme="})
      if (override_text.starts_with(key)) {
        const std::string value = lower(override_text.substr(key.size()));
        mode = value == "null" || value == "none" || value.empty() ? RecipeMode::sft : RecipeMode::peft;
      }
  return mode;
}

void apply_recipe(ConfigDraft& draft, const RunRequest& request) {
  require(request.layout.empty() || request.layout == "documentation", "there is no layout {}; there is documentation", request.layout);
  if (request.recipe.empty()) {
    require(request.layout.empty(), "--layout {} wants a --recipe", request.layout);
    return;
  }
  const Recipe& recipe = find_recipe(request.recipe, finetune_mode(request));
  apply_change(draft, "recipe " + recipe.name, [&](Config& config) { config = recipe_config(recipe); });
  if (!request.layout.empty())
    apply_change(draft, "layout " + request.layout, [&](Config& config) { config = recipe_config(recipe, request.layout); });
}

bool holds_weights(const fs::path& folder) {
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.path().extension() == ".safetensors") return true;
  return false;
}

// Architecture, tokenizer and weights; what belongs to the run (lengths, precision, layout) stays.
void apply_hf_model(ConfigDraft& draft, const std::string& ref, const fs::path& folder) {
  require(fs::exists(folder / "config.json"), "{}: no config.json in {}", ref, folder);
  draft.moe_layer_interval = 0;
  apply_change(draft, "HF model " + ref, [&](Config& config) {
    Config from_hf;
    from_hf.model = model_config_from_hf(folder / "config.json");
    if (holds_weights(folder)) read_presence(hf_tensors(folder), from_hf.model);
    for (const Field& field : config_fields())
      if (field.role == FieldRole::architecture || field.key == "hf_config_json") field.copy(from_hf, config);
    if (Tokenizer::is_in(folder) || fs::exists(folder / "tokenizer_config.json")) {
      config.tokenizer.tokenizer_type = "HuggingFaceTokenizer";
      config.tokenizer.tokenizer_model = folder.string();
    }
    config.tokenizer.use_tokenizer_vocab_size = false;
    if (holds_weights(folder)) config.checkpoint.pretrained_checkpoint = folder.string();
  });
}

// A length given on one side only holds for both.
void agree_on_length(ConfigDraft& draft) {
  const bool data = is_explicit(draft.origins, "dataset.seq_length"), model = is_explicit(draft.origins, "model.seq_length");
  if (data && !model && draft.config.dataset.seq_length > 0)
    apply_change(draft, "derived from dataset.seq_length", [](Config& c) { c.model.seq_length = c.dataset.seq_length; });
  if (model && !data) draft.config.dataset.seq_length = 0;
}

// What decides the key: a preset of precisions, whose own keys of loss scaling are named, or another key.
std::string decided_by(const std::string& key, const std::string& preset) {
  const std::string name = key.substr(key.find('.') + 1), own = "mixed_precision." + name;
  const bool scaling = key.starts_with("optimizer.") && (name.find("loss_scale") != std::string::npos || name == "hysteresis");
  if (scaling) return format("mixed_precision={}; give {}", preset, own);
  const bool precision = key.starts_with("model.") || key.starts_with("ddp.grad") || key == "optimizer.params_dtype";
  return precision ? format("mixed_precision={} (mixed_precision=null lets the model's own keys stand)", preset) : "another key";
}

// What finalize() would change although the user said it himself is a contradiction.
void finalize_draft(ConfigDraft& draft, int64_t world_size) {
  const Config before = draft.config;
  finalize(draft.config, world_size);
  for (const ConfigDifference& d : config_difference(before, draft.config)) {
    const bool given = is_explicit(draft.origins, d.key) && d.left != "null" && d.left != "0";
    require(!given, "{}={} ({}) contradicts {}; the result would be {}", d.key, d.left, draft.origins[d.key],
            decided_by(d.key, draft.config.mixed_precision.name), d.right);
    draft.origins[d.key] = "derived";
  }
}

// A recipe's own vocabulary stands; a tokenizer the user names in its place brings its own, unless weights decide.
void take_vocabulary(ConfigDraft& draft) {
  const TokenizerConfig& tokenizer = draft.config.tokenizer;
  const bool named = is_explicit(draft.origins, "tokenizer.tokenizer_model") && !tokenizer.tokenizer_model.empty();
  if (!tokenizer.use_tokenizer_vocab_size || !named || tokenizer.tokenizer_type == "NullTokenizer") return;
  if (is_explicit(draft.origins, "model.vocab_size") || !draft.config.checkpoint.pretrained_checkpoint.empty()) return;
  const std::string ref = tokenizer.tokenizer_model;
  apply_change(draft, "tokenizer " + ref, [&](Config& c) { c.model.vocab_size = 1 + Tokenizer::load(resolve_tokenizer(ref)).max_id(); });
}

void list_idle_keys(ConfigDraft& draft) {
  const Config defaults;
  for (std::string_view name : idle_keys()) {
    const std::string key(name), value = config_value(draft.config, key);
    if (is_explicit(draft.origins, key) && value != config_value(defaults, key))
      draft.without_effect.push_back(format("{}={} ({})", key, value, draft.origins.at(key)));
  }
}

}  // namespace

ResolvedRun resolve_run(const RunRequest& request) {
  ConfigDraft draft;
  apply_recipe(draft, request);
  for (const std::string& file : request.config_files) apply_yaml_file(draft, file);
  ResolvedRun run;
  if (!request.hf_model.empty()) {
    const fs::path folder =
        resolve_repository(request.hf_model, request.revision, RepositoryKind::model, request.hf_files, HubSettings::from_environment());
    apply_hf_model(draft, request.hf_model, folder);
    run.hf_model_folder = folder.string();
  }
  for (const std::string& override_text : request.overrides) apply_override(draft, override_text, kCommandLine);
  agree_on_length(draft);
  take_vocabulary(draft);
  list_idle_keys(draft);
  write_out_layer_patterns(draft);
  finalize_draft(draft, request.world_size == kFewestRanks ? fewest_ranks(draft.config.model) : request.world_size);
  run.config = std::move(draft.config);
  run.origins = std::move(draft.origins);
  run.without_effect = std::move(draft.without_effect);
  return run;
}

std::string effective_config(const ResolvedRun& run) {
  std::string out;
  for (const std::string& line : run.without_effect) out += "# without effect: " + line + "\n";
  return out + config_yaml(run.config, &run.origins);
}

}  // namespace ponte
