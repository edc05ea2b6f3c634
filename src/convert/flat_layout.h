// Where the parameters of a model lie in the flat buckets of Megatron's distributed optimizer. Nothing in the files names them. A tensor- and pipeline-parallel
// rank has a buffer for each type of parameter in each of its chunks of layers; there the parameters stand in buckets one after another, the last of the
// model first, each at a multiple of 64. Which layers a chunk has, and how ranks divide into tensor- and pipeline-parallel ones, follows from what fills
// the buckets to the last element; that the main parameters found there round to the weights is for the caller to see.
// Source: megatron/core/distributed/param_and_grad_buffer.py, megatron/core/optimizer/{__init__,distrib_optimizer}.py, the order in which
// megatron/core/models/gpt and megatron/core/transformer register parameters.
#pragma once
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "families/rule.h"
#include "layout/placement.h"

namespace ponte {

// One flat tensor: its key up to the kind ("....bucket_idx_0."), and its elements.
struct FlatBucket {
  std::string key;
  int64_t elements = 0;
};
// The parameters of one type in one chunk of layers of a rank.
struct FlatBuffer {
  DType dtype = DType::bf16;
  std::vector<FlatBucket> buckets;
};
using FlatRank = std::vector<FlatBuffer>;  // chunk after chunk
// Ranks in the order of their model-parallel groups: tensor (of experts: then expert), then pipeline. Experts of several ranks have an optimizer of their own.
struct FlatOptimizers {
  std::vector<FlatRank> dense, experts;
};

struct FlatModel {
  const RuleTable& table;
  std::function<DType(const Rule&)> dtype;           // of the parameter, as it trains
  std::function<int64_t(const Rule&)> padded_rows;  // of a vocabulary's weight, Megatron's padding included
};

// How Megatron's layers register their parameters: as Transformer Engine's modules with grouped experts; or with the norm before attention as a module of its
// own, as its own layers have it; or each expert's matrices together.
struct FlatOrder {
  bool separate_norms = false, single_experts = false;
};
// Those that make a difference to this model, the most usual first.
std::vector<FlatOrder> flat_orders(const RuleTable& table);

// How the ranks of the optimizers divide.
struct FlatDivision {
  int64_t tensor = 1, pipeline = 1, expert = 1, expert_tensor = 1;
};
// Those the numbers of ranks allow.
std::vector<FlatDivision> flat_divisions(const FlatOptimizers& optimizers);

// What tensor-parallel rank `rank` of `size` holds of a parameter: equal parts of each segment, of a vocabulary with its padding. nullopt where it does not
// divide.
std::optional<Slice> flat_slice(const FlatModel& model, const Rule& rule, int64_t rank, int64_t size);

// Elements [begin, begin + elements) of a bucket: the flat_slice of this rank.
struct FlatPlace {
  int64_t rank = 0, size = 1;
  std::string bucket;
  int64_t begin = 0, elements = 0;
};
using FlatLayout = std::map<std::string, std::vector<FlatPlace>>;  // by live name; of what ranks replicate, the first one's

// nullopt where the model does not fill the buckets exactly under this division: `why` is the first thing that does not fit. UserError for parameters
// without a place in Megatron's orders.
std::optional<FlatLayout> flat_layout(const FlatOptimizers& optimizers, const FlatModel& model, FlatOrder order, FlatDivision division, std::string& why);

}  // namespace ponte
