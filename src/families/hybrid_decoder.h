// The decoder Qwen3-Next and Qwen3.5 share: gated delta nets with a gated full-attention layer among them, dense or sparse MLPs, zero-centred norms, and a
// multi-token prediction head. Source: transformers models/qwen3_next, qwen3_5, qwen3_5_moe; mtp.* as in the published checkpoints (transformers ignores it).
#pragma once
#include "families/gated_delta_blocks.h"
#include "families/moe_blocks.h"

namespace ponte {

// How a release usually stores what can be stored in several ways; the names and shapes of a checkpoint overrule it.
struct UsualStorage {
  InProjection in_projection = InProjection::fused;
  ExpertStorage experts = ExpertStorage::per_expert;  // of the decoder; a prediction head's are per_expert
};

// Exactly config.mtp_num_layers prediction layers: what a checkpoint has is asked before, with prediction_depths.
RuleTable hybrid_decoder(const ModelConfig& config, const HfTensors& present, UsualStorage usual);
// Multi-token prediction layers among HF's tensors: mtp.fc.weight, and mtp.depth1.fc.weight and so on. The published layout holds one; further depths, each
// with norms and a projection of its own as Megatron has them, follow under their number.
int64_t prediction_depths(const HfTensors& present);

void read_hybrid_config(const Json& hf, std::string_view origin, ModelConfig& config);
void write_hybrid_config(const ModelConfig& config, Json& hf);

}  // namespace ponte
