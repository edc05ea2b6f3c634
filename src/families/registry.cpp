#include "families/registry.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/checked.h"
#include "base/errors.h"
#include "families/facts.h"
#include "families/hybrid_decoder.h"
#include "families/moe_blocks.h"
#include "format/hf_index.h"

namespace ponte {
namespace {

constexpr Family kFamilies[] = {
    {"Qwen2ForCausalLM", "qwen2", qwen2::read_config, qwen2::write_config, qwen2::rules},
    {"Qwen3ForCausalLM", "qwen3", qwen3::read_config, qwen3::write_config, qwen3::rules},
    {"Qwen2MoeForCausalLM", "qwen2_moe", qwen2_moe::read_config, qwen2_moe::write_config, qwen2_moe::rules},
    {"Qwen3MoeForCausalLM", "qwen3_moe", qwen3_moe::read_config, qwen3_moe::write_config, qwen3_moe::rules},
    {"OlmoeForCausalLM", "olmoe", olmoe::read_config, olmoe::write_config, olmoe::rules},
    {"Qwen3NextForCausalLM", "qwen3_next", qwen3_next::read_config, qwen3_next::write_config, qwen3_next::rules, prediction_depths},
    {"Qwen3_5ForCausalLM", "qwen3_5_text", qwen3_5::read_config, qwen3_5::write_config, qwen3_5::rules, prediction_depths},
    {"Qwen3_5MoeForCausalLM", "qwen3_5_moe_text", qwen3_5_moe::read_config, qwen3_5_moe::write_config, qwen3_5_moe::rules, prediction_depths},
};

}  // namespace

std::span<const Family> families() { return kFamilies; }

const Family& family_of(std::string_view architecture) {
  std::vector<std::string> known;
  for (const Family& family : kFamilies) {
    if (family.architecture == architecture) return family;
    known.emplace_back(family.architecture);
  }
  fail("architecture '{}' is not supported; supported: {}", architecture, join(known, ", "));
}

namespace {

HfTensors sources_of(const RuleTable& table) {
  HfTensors out;
  for (const Rule& rule : table.rules)
    for (const Source& source : rule.sources) out.emplace(source.name, source.shape);
  return out;
}

}  // namespace

RuleTable rule_table(const ModelConfig& config, const HfTensors& present) {
  require_one_expert_storage(config, present);
  return family_of(config.hf_architecture).rules(config, present);
}

std::string unusual_storage(const ModelConfig& config, const RuleTable& table) {
  const HfTensors tensors = sources_of(table);
  if (tensors == sources_of(rule_table(config))) return "";
  Json document = Json::object();
  for (const auto& [name, shape] : tensors) document[name] = shape;
  return dump_json(document);
}

HfTensors read_storage(std::string_view json, std::string_view origin) {
  const Json document = parse_json(json, origin);
  require(document.is_object(), "{}: not a JSON object", origin);
  HfTensors out;
  for (const auto& [name, shape] : document.items()) {
    require(shape.is_array() && std::ranges::all_of(shape, [](const Json& n) { return n.is_number_unsigned(); }), "{}: the shape of '{}' is {}", origin, name,
            shape.dump());
    out.emplace(name, shape.get<Shape>());
  }
  return out;
}

ParameterCount count_parameters(const ModelConfig& config) {
  ParameterCount out;
  int64_t routed = 0;
  for (const Rule& rule : rule_table(config).rules) {
    const int64_t elements = checked_numel(rule.shape, rule.leaf);
    if (rule.stack.starts_with("mtp")) out.prediction += elements;
    else if (rule.expert >= 0) routed += elements;
    else out.total += elements;
  }
  out.active = out.total + (config.num_moe_experts ? routed / config.num_moe_experts * config.moe_router_topk : 0);
  out.total += routed;
  return out;
}

HfTensors hf_tensors(const std::filesystem::path& model_folder) {
  HfTensors out;
  const HfCheckpoint checkpoint(model_folder);
  for (const HfTensor& tensor : checkpoint.tensors()) out.emplace(tensor.name, tensor.shape);
  return out;
}

void read_presence(const HfTensors& present, ModelConfig& config) {
  const Family& family = family_of(config.hf_architecture);
  if (family.prediction_depths) config.mtp_num_layers = family.prediction_depths(present);
  config.moe_router_enable_expert_bias =
      std::ranges::any_of(present, [](const auto& tensor) { return tensor.first.ends_with("mlp.gate.e_score_correction_bias"); });
}

}  // namespace ponte
