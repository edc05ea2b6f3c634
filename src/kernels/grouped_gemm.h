// Matrix products of many experts at once: rows sorted by expert, each expert's stretch times its own matrix. Experts without rows cost nothing.
#pragma once
#include <ATen/core/Tensor.h>

#include <span>
#include <vector>

namespace ponte {

// first: [E + 1] row offsets; one matrix per expert, all alike in shape and type.
// y_PO = x_PI w_OI^T.
at::Tensor grouped_times_transposed(const at::Tensor& x_PI, std::span<const at::Tensor> weights_OI, std::span<const int64_t> first);
// dx_PI = dy_PO w_OI.
at::Tensor grouped_times(const at::Tensor& dy_PO, std::span<const at::Tensor> weights_OI, std::span<const int64_t> first);
// gradients_OI[e] += dy_PO^T x_PI over the rows of e, as kernels/gemm.h's add_transposed_product. Undefined gradients are left out.
void grouped_add_transposed_product(std::span<at::Tensor> gradients_OI, const at::Tensor& dy_PO, const at::Tensor& x_PI, std::span<const int64_t> first);

}  // namespace ponte
