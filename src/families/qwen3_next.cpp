// Qwen3-Next: the hybrid decoder with routed experts and a gated shared expert; projections fused on disk. Source: transformers models/qwen3_next.
#include <nlohmann/json.hpp>

#include "families/facts.h"
#include "families/hybrid_decoder.h"

namespace ponte::qwen3_next {

void read_config(const Json& hf, std::string_view origin, ModelConfig& config) {
  read_hybrid_config(hf, origin, config);
  read_moe_config(hf, origin, config);
  config.moe_router_pre_softmax = !json_get_or<bool>(hf, "norm_topk_prob", true, origin);
  config.moe_shared_expert_gate = config.moe_shared_expert_intermediate_size > 0;
  config.moe_router_load_balancing_type = "global_aux_loss";
}

void write_config(const ModelConfig& config, Json& hf) {
  write_hybrid_config(config, hf);
  write_moe_config(config, hf);
  hf["num_nextn_predict_layers"] = config.mtp_num_layers;
}

RuleTable rules(const ModelConfig& config, const HfTensors& present) { return hybrid_decoder(config, present, {}); }

}  // namespace ponte::qwen3_next
