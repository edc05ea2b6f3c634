// How tokens reach their experts and their results come back: the seam behind which experts may live on other ranks. Source of the distributed ones:
// megatron/core/transformer/moe/token_dispatcher.py. Every rank of a pipeline stage brings tokens of its own: its share of the sequence or its samples;
// tokens that all tensor-parallel ranks hold (no sequence parallelism) are brought by one of them each.
#pragma once
#include <memory>

#include "comm/region.h"
#include "config/model_config.h"
#include "kernels/permute.h"
#include "nn/router.h"

namespace ponte {

struct DispatchedTokens {
  at::Tensor x_PH;             // rows sorted by expert
  at::Tensor weights_P;        // router weight of each row
  ExpertRows rows;             // of this rank's experts
  std::shared_ptr<const struct Route> route;  // the way back
};

class TokenDispatcher {
 public:
  virtual ~TokenDispatcher() = default;
  // experts: of the whole layer.
  virtual DispatchedTokens dispatch(const at::Tensor& x_SH, const Routing& routing, int64_t experts) const = 0;
  // Each token's (already weighted) results added up: y_PH -> [S, H].
  virtual at::Tensor combine(const at::Tensor& y_PH, const DispatchedTokens& tokens) const = 0;
};

// Every expert is here.
std::shared_ptr<const TokenDispatcher> local_dispatcher();

struct ExpertGroups {
  std::shared_ptr<Group> expert;                // who shares the experts of a layer
  std::shared_ptr<Group> expert_tensor;         // who shares each expert
  std::shared_ptr<Group> expert_tensor_expert;  // both
};
// By moe_token_dispatcher_type: "allgather" brings all tokens to all ranks and sums what comes back; "alltoall" and "flex" send each token to its experts only.
// Local when the groups are of one rank and tokens are not replicated over tensor-parallel ranks.
std::shared_ptr<const TokenDispatcher> token_dispatcher(const ModelConfig& config, const ExpertGroups& groups, const TensorRegion& tensor);

}  // namespace ponte
