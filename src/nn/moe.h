// A sparse feed-forward layer: router, dispatched experts, and the shared expert where a family has one. Source: megatron/core/transformer/moe.
#pragma once
#include <optional>

#include "nn/mlp.h"
#include "nn/parameters.h"
#include "nn/router.h"
#include "nn/token_dispatcher.h"

namespace ponte {

// The routed experts of a layer: gate and up packed in fc1, one matrix of its own per expert, side by side in memory.
struct Experts {
  std::vector<Parameter*> linear_fc1, linear_fc2;  // [2F, H], [H, F]
  // Rows sorted by expert, and their router weights -> weighted outputs, rows as they came.
  at::Tensor operator()(const at::Tensor& x_PH, const at::Tensor& weights_P, const ExpertRows& rows) const;
};

struct SharedExpert {
  GatedMlp mlp;
  Parameter* gate = nullptr;  // [1, H]; sigmoid(gate . x) scales the output
  at::Tensor operator()(const at::Tensor& x_SH) const;
};

struct MoeMlp {
  Router router;
  Experts experts;
  std::optional<SharedExpert> shared;
  std::shared_ptr<const TokenDispatcher> dispatcher;

  at::Tensor operator()(const at::Tensor& x_SH, RoutingReport* report) const;
};

// Experts of a layer that one of several ranks holds: a stretch of them.
struct ExpertRange {
  int64_t first = 0, count = 0;
};
ExpertRange local_experts(int64_t experts, const ExpertGroups& groups);

// prefix: "decoder.layers.3.mlp."
MoeMlp make_moe_mlp(const ModelConfig& config, int64_t layer, const std::string& prefix, Parameters& parameters, const TensorRegion& region,
                    const ExpertGroups& groups);

}  // namespace ponte
