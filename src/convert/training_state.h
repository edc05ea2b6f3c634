// The non-sharded state of a training checkpoint in one shape, whichever of Megatron's optimizers wrote it: common.pt as it stands, the parameter groups
// of `dp_reshardable` from their object, and everything from objects and per-parameter step counts for Megatron-FSDP (`fsdp_dtensor`); and the way back.
// Source: the checkpointing of Megatron Bridge (generate_state_dict, get_rng_state), megatron/core/optimizer/distrib_optimizer.py.
#pragma once
#include <optional>

#include "convert/native_writer.h"

namespace ponte {

// With "optimizer" as `fully_reshardable` has it: {"optimizer": {"param_groups": [...]}, "param_state_sharding_type": ...}. nullopt: no state of a run.
std::optional<Value> training_state(const TorchDistReader& reader);

// Megatron's random states of one pipeline and tensor rank: one dict for each replica, as get_rng_state makes them.
struct RandomState {
  int64_t pipeline = 0, tensor = 0;
  Values replicas;
};
// Of either container; empty when none are stored.
std::vector<RandomState> random_states(const TorchDistReader& reader);

// The way back. `state`: as training_state gives it; without an "optimizer" there is none in the checkpoint. common.pt of torch_dist:
Value common_state_of(const ModelConfig& config, const Value& state);
NativeExtras torch_dist_extras(const std::vector<RandomState>& random);
// Objects and step counts of fsdp_dtensor. UserError when the parameter groups fit no parameter. decay_qk_norms: optimizer.apply_wd_to_qk_layernorm.
struct FsdpStateOptions {
  bool decay_qk_norms = false;
};
NativeExtras fsdp_extras(const RuleTable& table, const Value& state, const std::vector<RandomState>& random, FsdpStateOptions options);

}  // namespace ponte
