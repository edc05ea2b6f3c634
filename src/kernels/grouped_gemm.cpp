#include "kernels/grouped_gemm.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/ThreadLocalState.h>

#include <algorithm>
#include <atomic>

#include "base/errors.h"
#include "kernels/gemm.h"
#include "kernels/parallel.h"

namespace ponte {
namespace {

// body(expert, first row, rows) for every expert that has rows. On a CPU each expert is one thread's work, the largest first, so that threads meet once and
// not after every small product; unless one expert has most of the rows: then every product is everybody's.
template <class Body>
void for_experts(const at::Tensor& rows, std::span<const int64_t> first, size_t experts, Body body) {
  PONTE_ASSERT(first.size() == experts + 1);
  const auto count = [&](size_t e) { return first[e + 1] - first[e]; };
  std::vector<size_t> order;
  for (size_t e = 0; e < experts; ++e)
    if (count(e) > 0) order.push_back(e);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return count(a) > count(b); });
  const int64_t threads = at::get_num_threads(), total = first[experts];
  if (!rows.device().is_cpu() || order.empty() || count(order[0]) * threads > 2 * total) {
    for (const size_t e : order) body(e, first[e], count(e));
    return;
  }
  std::atomic<size_t> next = 0;
  const at::ThreadLocalState caller;  // grad and inference mode hold in the other threads too
  parallel_parts(0, threads, 1, [&](int64_t, int64_t) {
    const at::ThreadLocalStateGuard as_caller(caller);
    for (size_t i = next++; i < order.size(); i = next++) body(order[i], first[order[i]], count(order[i]));
  });
}

}  // namespace

at::Tensor grouped_times_transposed(const at::Tensor& x_PI, std::span<const at::Tensor> weights_OI, std::span<const int64_t> first) {
  at::Tensor y_PO = at::empty({x_PI.size(0), weights_OI[0].size(0)}, x_PI.options());
  for_experts(x_PI, first, weights_OI.size(), [&](size_t e, int64_t at, int64_t rows) {
    at::Tensor y = y_PO.narrow(0, at, rows);
    times_transposed_into(y, x_PI.narrow(0, at, rows), weights_OI[e]);
  });
  return y_PO;
}

at::Tensor grouped_times(const at::Tensor& dy_PO, std::span<const at::Tensor> weights_OI, std::span<const int64_t> first) {
  at::Tensor dx_PI = at::empty({dy_PO.size(0), weights_OI[0].size(1)}, dy_PO.options());
  for_experts(dy_PO, first, weights_OI.size(), [&](size_t e, int64_t at, int64_t rows) {
    at::Tensor dx = dx_PI.narrow(0, at, rows);
    times_into(dx, dy_PO.narrow(0, at, rows), weights_OI[e]);
  });
  return dx_PI;
}

void grouped_add_transposed_product(std::span<at::Tensor> gradients_OI, const at::Tensor& dy_PO, const at::Tensor& x_PI, std::span<const int64_t> first) {
  for_experts(dy_PO, first, gradients_OI.size(), [&](size_t e, int64_t at, int64_t rows) {
    if (gradients_OI[e].defined()) add_transposed_product(gradients_OI[e], dy_PO.narrow(0, at, rows), x_PI.narrow(0, at, rows));
  });
}

}  // namespace ponte
