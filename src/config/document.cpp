// Values into a configuration and out of it: one path for YAML entries and command-line assignments.
#include "config/document.h"

#include <simdjson.h>

#include <algorithm>
#include <optional>

#include "base/errors.h"
#include "base/file.h"
#include "config/field.h"
#include "config/foreign.h"
#include "config/layer_patterns.h"
#include "config/precision.h"

namespace ponte {
namespace {

// Where a value was written: for errors and origins.
struct Place {
  std::string file;    // "" on the command line
  std::string origin;  // of an assignment
  std::string at(const YamlValue& value) const { return file.empty() ? origin : format("file {} line {}", file, value.line); }
};

YamlValue scalar(std::string text, int line) {
  YamlValue out;
  out.kind = YamlValue::Kind::scalar;
  out.text = std::move(text);
  out.line = line;
  return out;
}

[[noreturn]] void fail_unknown(const std::string& name, const std::string& place) {
  std::vector<std::string> candidates;
  for (const Field& field : config_fields())
    if (field.role != FieldRole::internal) candidates.push_back(field.name());
  std::string hint = nearest(name, candidates);
  // The right key in the wrong section is a likelier mistake than a typing error.
  const std::string leaf = name.substr(name.find('.') + 1);
  for (const std::string& candidate : candidates)
    if (candidate.substr(candidate.find('.') + 1) == leaf) hint = candidate;
  fail("{}: there is no key {}{}", place, name, hint.empty() ? "" : "; did you mean " + hint + "?");
}

// A map under a key that is none: usually a section indented too far.
[[noreturn]] void fail_nested(const std::string& section, const std::string& key, const std::string& place) {
  const std::string meant = nearest(key, config_sections());
  if (meant.empty()) fail_unknown(section + "." + key, place);
  fail("{}: there is no section inside {}; {} is a section of its own, at the start of a line{}", place, section, meant,
       meant == key ? "" : format(" (found: {})", key));
}

void assign(ConfigDraft& draft, const Field& field, const YamlValue& value, const Place& place) {
  if (!field.assign(draft.config, value)) {
    std::string hint;
    if (!field.choices.empty() && value.is_scalar()) hint = nearest(value.text, field.choices);
    fail("{}: {} must be {}, not {}{}", place.at(value), field.name(), field.wanted, describe(value),
         hint.empty() ? "" : "; did you mean " + hint + "?");
  }
  draft.origins[field.name()] = place.at(value);
}

void assign(ConfigDraft& draft, std::string_view name, const YamlValue& value, const Place& place) {
  const Field* field = find_field(name);
  PONTE_ASSERT(field != nullptr);
  assign(draft, *field, value, place);
}

// Bridge's blend: a list of paths and a list of weights, or paths alone; ours: weight path weight path.
std::optional<YamlValue> flat_blend(const YamlValue& blend) {
  YamlValue out;
  out.kind = YamlValue::Kind::list;
  out.line = blend.line;
  if (blend.is_null()) return out;
  if (blend.kind != YamlValue::Kind::list || blend.items.empty()) return std::nullopt;
  if (blend.items[0].kind != YamlValue::Kind::list) {
    out.items = blend.items;
    return out;
  }
  const std::vector<YamlValue>& paths = blend.items[0].items;
  const bool weighted = blend.items.size() > 1 && !blend.items[1].is_null();
  if (weighted && blend.items[1].items.size() != paths.size()) return std::nullopt;
  for (size_t i = 0; i < paths.size(); ++i) {
    if (weighted) out.items.push_back(blend.items[1].items[i]);
    out.items.push_back(paths[i]);
  }
  return out;
}

bool apply_blend(ConfigDraft& draft, const std::string& key, const YamlValue& value, const Place& place) {
  const char* wanted = "[[paths], [weights]]";
  if (key == "blend") {
    const auto blend = flat_blend(value);
    require(blend.has_value(), "{}: dataset.blend must be {}, not {}", place.at(value), wanted, describe(value));
    assign(draft, "dataset.data_path", *blend, place);
    return true;
  }
  if (key != "blend_per_split") return false;
  const char* splits[] = {"dataset.train_data_path", "dataset.valid_data_path", "dataset.test_data_path"};
  require(value.is_null() || value.items.size() == 3, "{}: dataset.blend_per_split must be three of {}, not {}", place.at(value), wanted,
          describe(value));
  for (size_t i = 0; i < value.items.size(); ++i) {
    const auto blend = flat_blend(value.items[i]);
    require(blend.has_value(), "{}: dataset.blend_per_split must be three of {}, not {}", place.at(value), wanted, describe(value));
    assign(draft, splits[i], *blend, place);
  }
  return true;
}

// A list of 0 and 1 over layers, or a positive number: of how many layers one is of the rarer kind. Of a number: the number.
std::optional<int64_t> layer_period(const std::string& key, const YamlValue& value, const Place& place) {
  int64_t number = 0;
  const bool is_flag_list = value.kind == YamlValue::Kind::list && std::ranges::all_of(value.items, [&](const YamlValue& layer) {
    return read_integer(layer, number) && (number == 0 || number == 1);
  });
  if (is_flag_list || value.is_null()) return std::nullopt;
  require(value.is_scalar() && read_integer(value, number) && number >= 1, "{}: model.{} must be a number of layers or a list of 0 and 1, one for each, not {}",
          place.at(value), key, describe(value));
  return number;
}

YamlValue empty_list(const YamlValue& in_place_of) {
  YamlValue out;
  out.kind = YamlValue::Kind::list;
  out.line = in_place_of.line;
  return out;
}

// What Megatron-LM's command line says as "([0]+[1]*23)", as the list it stands for.
YamlValue written_out(const std::string& key, const YamlValue& value, const Place& place) {
  if (!value.is_scalar() || !is_layer_expression(value.text)) return value;
  YamlValue out = empty_list(value);
  for (int64_t flag : layer_expression(value.text, format("{}: model.{}", place.at(value), key))) out.items.push_back(scalar(std::to_string(flag), value.line));
  return out;
}

bool is_layer_pattern(std::string_view key) { return key == "moe_layer_freq" || key == "linear_attention_freq"; }

// Which layers have experts, and which linear attention (1). Of numbers write_out_layer_patterns() makes lists.
bool apply_layer_pattern(ConfigDraft& draft, const std::string& key, const YamlValue& said, const Place& place) {
  if (!is_layer_pattern(key)) return false;
  const YamlValue value = written_out(key, said, place);
  if (key == "moe_layer_freq") {
    const std::optional<int64_t> period = layer_period(key, value, place);
    draft.moe_layer_interval = period.value_or(1) > 1 ? *period : 0;
    assign(draft, "model.moe_layer_freq", period ? empty_list(value) : value, place);
    return true;
  }
  if (value.is_null()) return false;
  if (layer_period(key, value, place)) {
    // A configuration as we print it has the list too, which says more.
    const auto listed = draft.origins.find("model.layer_types");
    const bool beside = !place.file.empty() && listed != draft.origins.end() && listed->second.starts_with("file " + place.file + " line ");
    if (!beside) assign(draft, "model.layer_types", empty_list(value), place);
    return false;
  }
  YamlValue types = value;
  int64_t linear = 0;
  for (YamlValue& layer : types.items) layer = scalar(read_integer(layer, linear) && linear == 1 ? "linear_attention" : "full_attention", layer.line);
  assign(draft, "model.layer_types", types, place);
  return true;
}

// Keys of `model` that Bridge spells in another way than by another name. True: done.
bool apply_model_spelling(ConfigDraft& draft, const std::string& key, const YamlValue& value, const Place& place) {
  if (apply_layer_pattern(draft, key, value, place)) return true;
  if (key == "activation_func" && value.is_scalar() && value.text.starts_with("torch.nn.functional.")) {
    assign(draft, "model.activation_func", scalar(value.text.substr(20), value.line), place);
    return true;
  }
  if (key == "position_embedding_type" && value.is_scalar() && value.text == "yarn") {
    assign(draft, "model.position_embedding_type", scalar("rope", value.line), place);
    assign(draft, "model.rope_scaling_type", scalar("yarn", value.line), place);
    return true;
  }
  if (key == "experimental_attention_variant" && value.is_scalar() && value.text == "gdn") {  // before megatron-core named it in full
    assign(draft, "model.experimental_attention_variant", scalar("gated_delta_net", value.line), place);
    return true;
  }
  if (key == "layer_types") {  // the short names of the FineWeb guide's list
    YamlValue types = value;
    for (YamlValue& layer : types.items)
      if (layer.is_scalar() && (layer.text == "full" || layer.text == "linear" || layer.text == "sliding")) layer.text += "_attention";
    assign(draft, "model.layer_types", types, place);
    return true;
  }
  // NeMo's number says by itself that whole layers are computed again: the first of a stage.
  if (key == "activations_checkpoint_num_layers" && !value.is_null()) {
    if (draft.config.model.recompute_granularity != "full") assign(draft, "model.recompute_granularity", scalar("full", value.line), place);
    if (draft.config.model.recompute_method.empty()) assign(draft, "model.recompute_method", scalar("block", value.line), place);
  }
  if (key.starts_with("yarn_") && value.is_null()) return true;  // Bridge's "no yarn"
  bool flag = false;
  if (key == "rope_scaling" && read_boolean(value, flag)) {  // Bridge's switch for Llama 3's scaling
    if (flag) assign(draft, "model.rope_scaling_type", scalar("llama3", value.line), place);
    return true;
  }
  int64_t number = 0;
  // Bridge: (tokens to the left, to the right); ours: tokens seen.
  if (key == "window_size" && value.items.size() == 2 && read_integer(value.items[0], number)) {
    assign(draft, "model.window_size", scalar(std::to_string(number + 1), value.line), place);
    return true;
  }
  return false;
}

void apply_key(ConfigDraft& draft, const std::string& section, const std::string& key, const YamlValue& value, const Place& place) {
  if (section == "model" && apply_model_spelling(draft, key, value, place)) return;
  if (section == "dataset" && apply_blend(draft, key, value, place)) return;
  const std::string name = section + "." + key;
  if (name == "mixed_precision.name" && value.is_scalar() && value.text != "custom") {
    draft.config.mixed_precision = precision_preset(value.text);
    return assign(draft, name, scalar(draft.config.mixed_precision.name, value.line), place);
  }
  const Field* field = find_field(name);
  if (field && field->role != FieldRole::internal) return assign(draft, *field, value, place);
  for (const auto& [theirs, ours] : key_aliases())
    if (theirs == name) {
      if (!value.is_null()) assign(draft, ours, value, place);
      return;
    }
  const ForeignAnswer answer = foreign_key(section, key, value);
  if (answer.kind == Foreign::unknown && value.kind == YamlValue::Kind::map) fail_nested(section, key, place.at(value));
  if (answer.kind == Foreign::unknown) fail_unknown(name, place.at(value));
  require(answer.kind != Foreign::wrong_value, "{}: {} can only be {} here, not {}{}{}", place.at(value), name, answer.wanted, describe(value),
          answer.reason.empty() ? "" : ": ", answer.reason);
  bool flag = true;
  if (!value.is_null() && !(read_boolean(value, flag) && !flag))
    draft.without_effect.push_back(format("{}={} ({}{}{})", name, describe(value), place.at(value), answer.reason.empty() ? "" : "; ", answer.reason));
}

// The last part of a Python class path.
std::string class_name(const std::string& path) { return path.substr(path.rfind('.') + 1); }

// `_target_` of a section, where the class says more than the keys.
void apply_target(ConfigDraft& draft, const std::string& section, const YamlValue& target, const Place& place) {
  require(target.is_scalar(), "{}: _target_ must be the name of a class", place.at(target));
  const std::string name = class_name(target.text);
  if (section == "peft") {
    const std::string scheme = name == "LoRA" ? "lora" : name == "DoRA" ? "dora" : name == "CanonicalLoRA" ? "canonical_lora" : "";
    require(!scheme.empty(), "{}: peft can be LoRA, DoRA or CanonicalLoRA, not {}", place.at(target), target.text);
    assign(draft, "peft.scheme", scalar(scheme, target.line), place);
  } else if (section == "dataset") {
    const bool sft = name.find("SFT") != std::string::npos || name.find("Finetun") != std::string::npos;
    assign(draft, "dataset.kind", scalar(sft ? "sft" : "gpt", target.line), place);
    if (!sft) assign(draft, "dataset.order", scalar("megatron", target.line), place);  // a Megatron data set is asked for; a key `order` may say otherwise
  }
}

// "peft: lora", "mixed_precision: bf16_mixed", and null, which for these two is a value.
bool apply_named_section(ConfigDraft& draft, const std::string& section, const YamlValue& value, const Place& place) {
  if (value.kind == YamlValue::Kind::map || value.kind == YamlValue::Kind::list) return false;
  if (section == "peft") {
    if (value.is_null()) draft.config.peft = {};
    assign(draft, "peft.scheme", value, place);
    return true;
  }
  if (section != "mixed_precision") return false;
  if (value.is_null()) draft.config.mixed_precision = {};
  apply_key(draft, section, "name", value, place);
  return true;
}

void apply_section(ConfigDraft& draft, const std::string& section, const YamlValue& value, const Place& place) {
  const auto& sections = config_sections();
  const bool ours = std::find(sections.begin(), sections.end(), section) != sections.end();
  if (!ours && !foreign_section(section)) {
    const std::string hint = nearest(section, sections);
    fail("{}: there is no section {}{}; sections are {}", place.at(value), section, hint.empty() ? "" : " (" + hint + "?)", join(sections, ", "));
  }
  if (ours && apply_named_section(draft, section, value, place)) return;
  if (value.is_null()) return;
  require(value.kind == YamlValue::Kind::map, "{}: {} must be a section with keys, not {}", place.at(value), section, describe(value));
  if (const YamlValue* target = value.find("_target_")) apply_target(draft, section, *target, place);
  for (const auto& [key, entry] : value.entries)
    if (key != "_target_" && key != "_call_") apply_key(draft, section, key, entry, place);
  if (section == "mixed_precision" && draft.config.mixed_precision.name.empty() && !value.find("name") && !value.entries.empty())
    assign(draft, "mixed_precision.name", scalar("custom", value.line), place);
}

std::string section_yaml(const Config& config, const std::string& section, const Origins* origins) {
  std::string out = section + ":\n";
  for (const Field& field : config_fields()) {
    if (field.section != section || field.role == FieldRole::internal) continue;
    std::string line = "  " + field.key + ": " + field.print(config);
    if (origins)
      if (const auto it = origins->find(field.name()); it != origins->end())
        line += std::string(line.size() < 60 ? 60 - line.size() : 1, ' ') + "# " + it->second;
    out += line + "\n";
  }
  return out;
}

}  // namespace

void apply_yaml(ConfigDraft& draft, std::string_view text, const std::string& file) {
  const YamlValue root = parse_value(text, file);
  if (root.is_null()) return;
  require(root.kind == YamlValue::Kind::map, "{}: a configuration is sections with keys, this is {}", file, describe(root).substr(0, 60));
  const Place place{file, ""};
  const size_t listed = draft.without_effect.size();
  for (const auto& [section, value] : root.entries)
    if (section != "_target_") apply_section(draft, section, value, place);
  // A serialised Bridge configuration lists every key there is; one line says it.
  if (const size_t count = draft.without_effect.size() - listed; root.find("_target_") && count > 0) {
    draft.without_effect.resize(listed);
    draft.without_effect.push_back(format("{} keys of Megatron Bridge without effect here (file {})", count, file));
  }
}

void apply_yaml_file(ConfigDraft& draft, const std::filesystem::path& file) { apply_yaml(draft, read_file(file), file.string()); }

void apply_override(ConfigDraft& draft, std::string_view assignment, const std::string& origin) {
  require(simdjson::validate_utf8(assignment), "{}: the override is not UTF-8 text", origin);
  const size_t equals = assignment.find('=');
  require(equals != std::string_view::npos && equals > 0, "{}: \"{}\" is not of the form section.key=value", origin, assignment);
  std::string name(assignment.substr(0, equals));
  while (name.starts_with('+')) name.erase(0, 1);  // Hydra's spelling for a new key
  std::string_view text = assignment.substr(equals + 1);
  const Place place{"", origin};
  // Commands are not YAML: "a: b" or "# x" in a path must stay text, so only lists, maps and quotes are parsed; [0]+[1]*23 is none of them.
  const bool expression = text.starts_with('[') && is_layer_pattern(name.substr(name.find('.') + 1));
  const bool structured = !text.empty() && !expression && std::string_view("[{\"'").find(text.front()) != std::string_view::npos;
  YamlValue value;
  if (structured) value = parse_value(text, origin);
  else if (!text.empty() && text != "null" && text != "None") value = scalar(std::string(text), 0);
  value.line = 0;
  const size_t dot = name.find('.');
  if (dot != std::string::npos) {
    YamlValue section;
    section.kind = YamlValue::Kind::map;
    section.entries.push_back({name.substr(dot + 1), std::move(value)});
    return apply_section(draft, name.substr(0, dot), section, place);
  }
  if (apply_named_section(draft, name, value, place)) return;
  fail_unknown(name, place.at(value));
}

std::vector<ConfigDifference> config_difference(const Config& a, const Config& b) {
  std::vector<ConfigDifference> out;
  for (const Field& field : config_fields()) {
    std::string left = field.print(a), right = field.print(b);
    if (left != right) out.push_back({field.name(), std::move(left), std::move(right)});
  }
  return out;
}

std::string config_yaml(const Config& config, const Origins* origins) {
  std::string out;
  for (const std::string& section : config_sections()) out += section_yaml(config, section, origins);
  return out;
}

std::string config_value(const Config& config, std::string_view key) {
  const Field* field = find_field(key);
  if (!field || field->role == FieldRole::internal) fail_unknown(std::string(key), "configuration");
  return field->print(config);
}

}  // namespace ponte
