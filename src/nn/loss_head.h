// The output layer and its loss as one: logits exist a chunk of tokens at a time, and their gradient is turned into the hidden states' and the weight's in
// the forward pass, so that the logits are never stored and nothing is computed twice. The vocabulary may be sharded over the tensor group.
#pragma once
#include "comm/region.h"
#include "nn/parameter.h"

namespace ponte {

struct TokenLosses {
  at::Tensor losses_S;  // detached, unmasked; fp32 (fp64 for fp64)
  at::Tensor scaled;    // scalar with autograd: sum(losses * weight). Call backward() on exactly this.
};

struct LossHead {
  Parameter* weight = nullptr;  // [V, H]
  TensorRegion region;
  // hidden_SH: the normed residual stream; labels_S: int64 ids; weight_S: fp32 factor of each token's loss in the objective. With autograd enabled the
  // weight's gradient is added to its main_grad here, in forward.
  TokenLosses operator()(const at::Tensor& hidden_SH, const at::Tensor& labels_S, const at::Tensor& weight_S) const;
  // fp32 logits [S, vocabulary] of the whole vocabulary on every rank, no autograd.
  at::Tensor logits(const at::Tensor& hidden_SH) const;
};

}  // namespace ponte
