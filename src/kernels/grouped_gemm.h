// Matrix products of many experts at once: rows sorted by expert, each expert's stretch times its own matrix. Experts without rows cost nothing.
#pragma once
#include <ATen/core/Tensor.h>

#include <span>
#include <vector>

namespace ponte {

// Where each expert's rows lie. On a processor the host knows; a device knows for itself, so that nobody waits for it.
struct ExpertRows {
  ExpertRows() = default;
  ExpertRows(std::vector<int64_t> first_rows) : first(std::move(first_rows)) {}
  std::vector<int64_t> first;  // [E + 1]: rows of expert e are [first[e], first[e + 1]); empty when only the device knows
  at::Tensor ends_E;           // int32, beside the rows: one past the last row of each; undefined when only the host knows. Rows behind them all are nobody's.
};

// One matrix per expert, all alike in shape and type. Where the device knows the rows: ATen's grouped product, which wants the matrices side by side in
// memory (Experts lays them so) and else copies them; results of nobody's rows mean nothing.
// y_PO = x_PI w_OI^T.
at::Tensor grouped_times_transposed(const at::Tensor& x_PI, std::span<const at::Tensor> weights_OI, const ExpertRows& rows);
// dx_PI = dy_PO w_OI.
at::Tensor grouped_times(const at::Tensor& dy_PO, std::span<const at::Tensor> weights_OI, const ExpertRows& rows);
// gradients_OI[e] += dy_PO^T x_PI over the rows of e, as kernels/gemm.h's add_transposed_product; the grouped product of half types is rounded to them before
// it is added. Undefined gradients are left out.
void grouped_add_transposed_product(std::span<at::Tensor> gradients_OI, const at::Tensor& dy_PO, const at::Tensor& x_PI, const ExpertRows& rows);

}  // namespace ponte
