// Optimizer state as Megatron's distributed optimizer holds it (`dp_reshardable`): per bucket one flat tensor of each kind, written by the ranks of every
// tensor-, expert- and pipeline-parallel group. With experts over several ranks two optimizers are chained, of dense parameters and of experts.
// Source: megatron/core/optimizer/distrib_optimizer.py (sharded_param_state_dp_reshardable), megatron/core/optimizer/optimizer.py (ChainedOptimizer).
#pragma once
#include <string_view>

#include "convert/flat_layout.h"
#include "convert/segment_chunk.h"

namespace ponte {

class FlatState {
 public:
  // Whether the checkpoint holds such state.
  static bool present(const TorchDistReader& reader);
  // Whether the main parameter that lies where this state says is the one its weight was rounded from, as far as a few of its elements tell.
  using Agrees = std::function<bool(const FlatState& state, const Rule& rule)>;
  // Lays the model over the buckets, under the first division of the ranks that fills all of them exactly and that `agrees` with every parameter.
  // UserError where there is none, where a rank's or a bucket's tensors are missing, and for what this version does not read.
  FlatState(const TorchDistReader& reader, FlatModel model, const Agrees& agrees);
  // The stored pieces of a segment. kind: param, exp_avg or exp_avg_sq.
  std::vector<SegmentChunk> chunks(std::string_view kind, const Rule& rule, size_t segment, const OpenChunk& open) const;

 private:
  FlatOptimizers optimizers() const;

  const TorchDistReader& reader_;
  FlatModel model_;
  FlatLayout layout_;
};

}  // namespace ponte
