// Optimizer state as Megatron's distributed optimizer holds it (`dp_reshardable`): per bucket one flat tensor, in which the parameters lie one after
// another, last of the model first. Nothing in the files names them; their order and alignment are Megatron's rules.
// Source: megatron/core/distributed/param_and_grad_buffer.py, megatron/core/optimizer/distrib_optimizer.py (sharded_param_state_dp_zero).
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
  // Lays the model's parameters over the buckets. UserError where they do not fill them exactly, or where the state is that of several model-parallel
  // ranks or chained optimizers.
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
  struct Place {
    size_t bucket;
    int64_t begin, elements;
  };
  const TorchDistReader& reader_;
  std::vector<std::string> buckets_;  // keys up to the kind
  std::map<std::string, Place> places_;
};

}  // namespace ponte
