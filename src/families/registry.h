// The families Ponte knows, one row each, and the three questions asked of them: HF config to ModelConfig, back, and the rule table.
#pragma once
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "base/json.h"
#include "config/model_config.h"
#include "families/rule.h"

namespace ponte {

struct Family {
  std::string_view architecture;  // HF's architectures[0]: "Qwen3ForCausalLM"
  std::string_view model_type;    // HF's model_type: "qwen3"
  // Fill what is particular to the family; the shared fields are read and written by families/hf_config.cpp.
  void (*read_config)(const Json& hf, std::string_view origin, ModelConfig& config);
  void (*write_config)(const ModelConfig& config, Json& hf);
  RuleTable (*rules)(const ModelConfig& config, const HfTensors& present);
  // Multi-token prediction layers among HF's tensors; nullptr for families without them.
  int64_t (*prediction_depths)(const HfTensors& present) = nullptr;
};

std::span<const Family> families();
// UserError listing the supported architectures when it is none of them.
const Family& family_of(std::string_view architecture);

// `origin` names the document in errors. The whole document is kept in hf_config_json. rope_theta or rope_parameters (transformers 5), rope_scaling,
// absent head_dim (hidden / heads) and torch_dtype / dtype are understood. Unknown architecture or a feature we would compute wrongly: UserError.
ModelConfig model_config_from_hf(const Json& hf, std::string_view origin);
ModelConfig model_config_from_hf(const std::filesystem::path& config_json);
// HF's config.json for this model: the document it was read from with the fields brought up to date, or a fresh one when there is none.
Json hf_config_from_model(const ModelConfig& config);

RuleTable rule_table(const ModelConfig& config, const HfTensors& present = {});
// The HF tensors a table reads, as the JSON kept with a model; "" when they are those of the family's usual storage. UserError from the reader when the
// text is damaged.
std::string unusual_storage(const ModelConfig& config, const RuleTable& table);
HfTensors read_storage(std::string_view json, std::string_view origin);

// Parameters of a model, counted from its rules: all of them, those a token meets (of the routed experts only the chosen ones), and those of prediction
// layers, which neither of the two includes.
struct ParameterCount {
  int64_t total = 0, active = 0, prediction = 0;
};
ParameterCount count_parameters(const ModelConfig& config);

// Names and shapes of the tensors in an HF model folder. UserError as format/hf_index.h.
HfTensors hf_tensors(const std::filesystem::path& model_folder);
// What the names of an HF model's tensors decide and a config may not know: mtp_num_layers of a family with multi-token prediction, and
// moe_router_enable_expert_bias.
void read_presence(const HfTensors& present, ModelConfig& config);

}  // namespace ponte
