// Where each value of a configuration comes from, and the ways values get into it: YAML in Bridge's spelling and "section.key=value".
#pragma once
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "config/config.h"

namespace ponte {

// "section.key" -> "recipe qwen3_8b_pretrain_config", "file my.yaml line 12", "command line", "derived from mixed_precision". Absent: the default.
using Origins = std::map<std::string, std::string>;

// A configuration being put together.
struct ConfigDraft {
  Config config;
  Origins origins;
  std::vector<std::string> without_effect;
  int64_t moe_layer_interval = 0;  // model.moe_layer_freq said as one number above 1, for write_out_layer_patterns() (config/layer_patterns.h)
};

// Applies a YAML document. `null` sections keep their values; `_target_` is read where it names a kind (peft, dataset) and ignored elsewhere.
// UserError: unknown key (with the nearest name), wrong type (key, file, line, value, wanted), not YAML.
void apply_yaml(ConfigDraft& draft, std::string_view text, const std::string& file);
void apply_yaml_file(ConfigDraft& draft, const std::filesystem::path& file);

// "section.key=value" with value in YAML's spelling ("null", "torch.bfloat16", "[a, b]"); also "section=name" for peft and mixed_precision.
void apply_override(ConfigDraft& draft, std::string_view assignment, const std::string& origin);

// For recipes and layers that set values in code: calls change(config) and records `origin` for every key whose value it changed.
template <class Change>
void apply_change(ConfigDraft& draft, const std::string& origin, Change&& change);

// Keys whose values differ: {"section.key", value in a, value in b}.
struct ConfigDifference {
  std::string key, left, right;
};
std::vector<ConfigDifference> config_difference(const Config& a, const Config& b);

// YAML in Bridge's layout and key names, sections in the order of Config, keys in the order of the listing; with origins: as comments.
std::string config_yaml(const Config& config, const Origins* origins = nullptr);
// The value of one key as YAML prints it. UserError when there is no such key.
std::string config_value(const Config& config, std::string_view key);

template <class Change>
void apply_change(ConfigDraft& draft, const std::string& origin, Change&& change) {
  const Config before = draft.config;
  change(draft.config);
  for (const ConfigDifference& d : config_difference(before, draft.config)) draft.origins[d.key] = origin;
}

}  // namespace ponte
