// The non-sharded state of a training checkpoint in one shape, whichever of Megatron's optimizers wrote it: common.pt as it stands, the parameter groups
// of `dp_reshardable` from their object, and everything from objects and per-parameter step counts for Megatron-FSDP (`fsdp_dtensor`).
#pragma once
#include <optional>

#include "format/torch_dist.h"

namespace ponte {

// With "optimizer" as `fully_reshardable` has it: {"optimizer": {"param_groups": [...]}, "param_state_sharding_type": ...}. nullopt: no state of a run.
std::optional<Value> training_state(const TorchDistReader& reader);

}  // namespace ponte
