// Any bytes as config.json: an error, or a model whose document is written back as it was read and whose rules can be cut for two ranks.
#include <cstdint>
#include <nlohmann/json.hpp>

#include "base/errors.h"
#include "base/json.h"
#include "families/registry.h"
#include "layout/placement.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace ponte;
  try {
    const Json document = parse_json({reinterpret_cast<const char*>(data), size}, "config.json");
    const ModelConfig config = model_config_from_hf(document, "config.json");
    if (hf_config_from_model(config) != document) __builtin_trap();
    if (config.num_layers > 4 || config.num_moe_experts > 16) return 0;  // tables grow with them
    const RuleTable table = rule_table(config);
    for (const Rule& rule : table.rules) {
      try {
        slice_of(rule, {1, 2});
      } catch (const UserError&) {  // does not divide over two ranks
      }
    }
  } catch (const UserError&) {
  }
  return 0;
}
