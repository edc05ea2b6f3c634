#include "families/registry.h"

#include "base/errors.h"
#include "families/facts.h"

namespace ponte {
namespace {

constexpr Family kFamilies[] = {
    {"Qwen2ForCausalLM", "qwen2", qwen2::read_config, qwen2::write_config, qwen2::rules},
    {"Qwen3ForCausalLM", "qwen3", qwen3::read_config, qwen3::write_config, qwen3::rules},
    {"Qwen2MoeForCausalLM", "qwen2_moe", qwen2_moe::read_config, qwen2_moe::write_config, qwen2_moe::rules},
    {"Qwen3MoeForCausalLM", "qwen3_moe", qwen3_moe::read_config, qwen3_moe::write_config, qwen3_moe::rules},
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

}  // namespace ponte
