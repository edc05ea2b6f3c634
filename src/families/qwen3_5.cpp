// Qwen3.5 and Qwen3.6, the language model alone, dense and with experts: Qwen3-Next's network stored otherwise (four projections apart, experts packed).
// Source: transformers models/qwen3_5 and qwen3_5_moe, classes Qwen3_5ForCausalLM and Qwen3_5MoeForCausalLM.
#include <nlohmann/json.hpp>

#include "families/facts.h"
#include "families/hybrid_decoder.h"

namespace ponte {
namespace qwen3_5 {

void read_config(const Json& hf, std::string_view origin, ModelConfig& config) { read_hybrid_config(hf, origin, config); }

void write_config(const ModelConfig& config, Json& hf) {
  write_hybrid_config(config, hf);
  hf["mtp_num_hidden_layers"] = config.mtp_num_layers;
}

RuleTable rules(const ModelConfig& config, const HfTensors& present) {
  return hybrid_decoder(config, present, {.in_projection = InProjection::separate});
}

}  // namespace qwen3_5

namespace qwen3_5_moe {

void read_config(const Json& hf, std::string_view origin, ModelConfig& config) {
  qwen3_next::read_config(hf, origin, config);
}

void write_config(const ModelConfig& config, Json& hf) {
  qwen3_5::write_config(config, hf);
  write_moe_config(config, hf);
  for (const char* key : {"intermediate_size", "norm_topk_prob", "decoder_sparse_step", "mlp_only_layers"}) hf.erase(key);  // every layer has experts
}

RuleTable rules(const ModelConfig& config, const HfTensors& present) {
  return hybrid_decoder(config, present, {.in_projection = InProjection::separate, .experts = ExpertStorage::packed_out_in});
}

}  // namespace qwen3_5_moe
}  // namespace ponte
