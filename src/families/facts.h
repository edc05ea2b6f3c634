// One namespace of facts per family, each in a file of its name; registry.cpp lists them.
#pragma once
#include "base/json.h"
#include "config/model_config.h"
#include "families/rule.h"

#define PONTE_FAMILY_FACTS(family) \
  namespace family { \
  void read_config(const Json& hf, std::string_view origin, ModelConfig& config); \
  void write_config(const ModelConfig& config, Json& hf); \
  RuleTable rules(const ModelConfig& config, const HfTensors& present); \
  }

namespace ponte {
PONTE_FAMILY_FACTS(qwen2)
PONTE_FAMILY_FACTS(qwen3)
PONTE_FAMILY_FACTS(qwen2_moe)
PONTE_FAMILY_FACTS(qwen3_moe)
PONTE_FAMILY_FACTS(olmoe)
PONTE_FAMILY_FACTS(qwen3_next)
PONTE_FAMILY_FACTS(qwen3_5)
PONTE_FAMILY_FACTS(qwen3_5_moe)
}  // namespace ponte

#undef PONTE_FAMILY_FACTS
