// Differentiable collectives: how activations enter and leave the part of a network that is sharded over the tensor group. Each is the other's
// transpose (Shoeybi et al. 2019, section 3; Korthikanti et al. 2022 for the sequence-parallel pair). Groups of one pass tensors through untouched.
#pragma once
#include <ATen/core/Tensor.h>

#include <vector>

#include "comm/group.h"

namespace ponte {

// How the activations between sharded parts are held.
enum class Residual {
  replicated,        // every rank holds all tokens
  token_sharded,     // sequence parallel: rank r holds tokens [r * S / size, (r + 1) * S / size) of the flattened batch
};

struct TensorRegion {
  std::shared_ptr<Group> group;
  Residual residual = Residual::replicated;

  // Into the region. Forward: nothing (all-gather of tokens); backward: sum over ranks (reduce-scatter).
  at::Tensor enter(const at::Tensor& x_SH) const;
  // Out of the region: each rank holds a partial sum. Forward: sum over ranks (reduce-scatter of tokens); backward: nothing (all-gather).
  at::Tensor leave(const at::Tensor& x_SH) const;
};

// Rows of different number from and to every rank (Group's functions of these names), with gradients: each one's backward is the other's forward, and
// all_to_all's is itself the other way round. A group of one passes rows through.
at::Tensor all_gather_rows(const at::Tensor& x, const std::shared_ptr<Group>& group, const std::vector<int64_t>& rows);
at::Tensor reduce_scatter_sum_rows(const at::Tensor& x, const std::shared_ptr<Group>& group, const std::vector<int64_t>& rows);
at::Tensor all_to_all(const at::Tensor& x, const std::shared_ptr<Group>& group, const std::vector<int64_t>& sent, const std::vector<int64_t>& received);

}  // namespace ponte
