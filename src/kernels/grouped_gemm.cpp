#include "kernels/grouped_gemm.h"

#include <ATen/ATen.h>

#include "base/errors.h"
#include "kernels/gemm.h"

namespace ponte {
namespace {

// body(expert, first row, rows) for every expert that has rows.
template <class Body>
void for_experts(std::span<const int64_t> first, size_t experts, Body body) {
  PONTE_ASSERT(first.size() == experts + 1);
  for (size_t e = 0; e < experts; ++e)
    if (first[e + 1] > first[e]) body(e, first[e], first[e + 1] - first[e]);
}

}  // namespace

at::Tensor grouped_times_transposed(const at::Tensor& x_PI, std::span<const at::Tensor> weights_OI, std::span<const int64_t> first) {
  at::Tensor y_PO = at::empty({x_PI.size(0), weights_OI[0].size(0)}, x_PI.options());
  for_experts(first, weights_OI.size(), [&](size_t e, int64_t at, int64_t rows) {
    at::Tensor y = y_PO.narrow(0, at, rows);
    times_transposed_into(y, x_PI.narrow(0, at, rows), weights_OI[e]);
  });
  return y_PO;
}

at::Tensor grouped_times(const at::Tensor& dy_PO, std::span<const at::Tensor> weights_OI, std::span<const int64_t> first) {
  at::Tensor dx_PI = at::empty({dy_PO.size(0), weights_OI[0].size(1)}, dy_PO.options());
  for_experts(first, weights_OI.size(), [&](size_t e, int64_t at, int64_t rows) {
    at::Tensor dx = dx_PI.narrow(0, at, rows);
    times_into(dx, dy_PO.narrow(0, at, rows), weights_OI[e]);
  });
  return dx_PI;
}

void grouped_add_transposed_product(std::span<at::Tensor> gradients_OI, const at::Tensor& dy_PO, const at::Tensor& x_PI, std::span<const int64_t> first) {
  for_experts(first, gradients_OI.size(), [&](size_t e, int64_t at, int64_t rows) {
    if (gradients_OI[e].defined()) add_transposed_product(gradients_OI[e], dy_PO.narrow(0, at, rows), x_PI.narrow(0, at, rows));
  });
}

}  // namespace ponte
