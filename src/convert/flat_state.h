// Optimizer state as Megatron's distributed optimizer holds it (`dp_reshardable`): per bucket one flat tensor, in which the parameters lie one after
// another, last of the model first. Nothing in the files names them; their order and alignment are Megatron's rules. With expert parallelism two optimizers
// are chained, of dense parameters and of experts, the latter with buckets for each expert-parallel rank.
// Source: megatron/core/distributed/param_and_grad_buffer.py, megatron/core/optimizer/distrib_optimizer.py (sharded_param_state_dp_reshardable),
// megatron/core/optimizer/optimizer.py (ChainedOptimizer).
#pragma once
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "families/rule.h"
#include "format/torch_dist.h"

namespace ponte {

class FlatState {
 public:
  // Whether the checkpoint holds such state.
  static bool present(const TorchDistReader& reader);
  // Lays the model's parameters over the buckets. UserError where they do not fill them exactly, or where the state is that of several tensor- or
  // pipeline-parallel ranks.
  FlatState(const TorchDistReader& reader, const RuleTable& table);
  // Where a parameter's elements lie: those from `begin` on are `elements` of the bytes from element `first` on.
  struct Piece {
    ChunkBytes bytes;
    int64_t first, begin, elements;
  };
  // kind: param, exp_avg or exp_avg_sq.
  std::vector<Piece> pieces(std::string_view kind, const Rule& rule) const;
  // The whole parameter, fp32, row-major.
  std::vector<std::byte> read(std::string_view kind, const Rule& rule) const;

 private:
  using Buckets = std::map<int64_t, std::string>;                      // number to key, up to the kind
  using Optimizers = std::map<int64_t, std::map<int64_t, Buckets>>;  // by place in the chain and rank of the parameters' model-parallel group
  struct Place {
    std::string bucket;
    int64_t begin, elements;
  };
  Optimizers optimizers() const;
  void lay_out(const Buckets& buckets, const std::vector<const Rule*>& order);

  const TorchDistReader& reader_;
  std::map<std::string, Place> places_;
};

}  // namespace ponte
