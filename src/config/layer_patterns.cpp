// The two rules of one number over layers, and the configuration they are said in.
#include "config/layer_patterns.h"

#include "base/errors.h"
#include "config/document.h"

namespace ponte {

std::vector<int64_t> periodic_expert_layers(int64_t num_layers, int64_t every) {
  std::vector<int64_t> out;
  for (int64_t i = 0; i < num_layers; ++i) out.push_back(i % every == 0 ? 1 : 0);
  return out;
}

std::vector<std::string> periodic_layer_types(int64_t num_layers, int64_t every) {
  std::vector<std::string> out;
  for (int64_t i = 0; i < num_layers; ++i) out.push_back((i + 1) % every == 0 ? "full_attention" : "linear_attention");
  return out;
}

void write_out_layer_patterns(ConfigDraft& draft) {
  ModelConfig& m = draft.config.model;
  const bool experts = draft.moe_layer_interval && m.num_moe_experts;
  const bool mixers = m.linear_attention_freq && m.layer_types.empty() && !m.experimental_attention_variant.empty();
  require(!(experts || mixers) || m.num_layers <= 65536, "model.num_layers is {}, wanted at most 65536", m.num_layers);
  if (experts) m.moe_layer_freq = periodic_expert_layers(m.num_layers, draft.moe_layer_interval);
  if (mixers) m.layer_types = periodic_layer_types(m.num_layers, m.linear_attention_freq);
  if (mixers) draft.origins["model.layer_types"] = draft.origins["model.linear_attention_freq"];
}

}  // namespace ponte
