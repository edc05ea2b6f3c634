#include "families/registry.h"

#include "base/checked.h"
#include "base/errors.h"
#include "families/facts.h"
#include "families/hybrid_decoder.h"
#include "format/hf_index.h"

namespace ponte {
namespace {

constexpr Family kFamilies[] = {
    {"Qwen2ForCausalLM", "qwen2", qwen2::read_config, qwen2::write_config, qwen2::rules},
    {"Qwen3ForCausalLM", "qwen3", qwen3::read_config, qwen3::write_config, qwen3::rules},
    {"Qwen2MoeForCausalLM", "qwen2_moe", qwen2_moe::read_config, qwen2_moe::write_config, qwen2_moe::rules},
    {"Qwen3MoeForCausalLM", "qwen3_moe", qwen3_moe::read_config, qwen3_moe::write_config, qwen3_moe::rules},
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

RuleTable rule_table(const ModelConfig& config, const HfTensors& present) { return family_of(config.hf_architecture).rules(config, present); }

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
}

}  // namespace ponte
