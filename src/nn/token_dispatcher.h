// How tokens reach their experts and their results come back: the seam behind which experts may live on other ranks.
#pragma once
#include <memory>

#include "kernels/permute.h"
#include "nn/router.h"

namespace ponte {

struct DispatchedTokens {
  at::Tensor x_PH;         // rows sorted by expert
  at::Tensor weights_P;    // router weight of each row
  Permutation permutation; // of the local rows; permutation.first says which rows are whose
};

class TokenDispatcher {
 public:
  virtual ~TokenDispatcher() = default;
  virtual DispatchedTokens dispatch(const at::Tensor& x_SH, const Routing& routing, int64_t experts) const = 0;
  // Each token's (already weighted) results added up: y_PH -> [S, H].
  virtual at::Tensor combine(const at::Tensor& y_PH, const DispatchedTokens& tokens) const = 0;
};

// Every expert is here.
std::shared_ptr<const TokenDispatcher> local_dispatcher();

}  // namespace ponte
