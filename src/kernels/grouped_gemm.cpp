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

// [E, O, I]: a view where the matrices lie side by side.
at::Tensor side_by_side(std::span<const at::Tensor> matrices) {
  const at::Tensor& first = matrices[0];
  bool adjacent = first.is_contiguous();
  for (size_t e = 0; e < matrices.size() && adjacent; ++e)
    adjacent = matrices[e].is_contiguous() && matrices[e].is_alias_of(first) &&
               matrices[e].storage_offset() == first.storage_offset() + static_cast<int64_t>(e) * first.numel();
  if (!adjacent) return at::stack(at::TensorList(matrices.data(), matrices.size()));
  const auto E = static_cast<int64_t>(matrices.size());
  return first.as_strided({E, first.size(0), first.size(1)}, {first.numel(), first.size(1), 1});
}

// Without rows there is nothing to multiply, whoever knows where they lie.
bool by_aten(const ExpertRows& rows, const at::Tensor& x_PI) { return rows.ends_E.defined() && x_PI.size(0) > 0; }

void grouped_add_on_device(std::span<at::Tensor> gradients_OI, const at::Tensor& dy_PO, const at::Tensor& x_PI, const at::Tensor& ends_E) {
  std::vector<at::Tensor> wanted, products;
  const std::vector<at::Tensor> all = at::_grouped_mm(dy_PO.t(), x_PI, ends_E).unbind(0);
  for (size_t e = 0; e < all.size(); ++e) {
    if (!gradients_OI[e].defined()) continue;
    wanted.push_back(gradients_OI[e]);
    products.push_back(all[e].to(gradients_OI[e].scalar_type()));
  }
  if (!wanted.empty()) at::_foreach_add_(wanted, products);
}

}  // namespace

at::Tensor grouped_times_transposed(const at::Tensor& x_PI, std::span<const at::Tensor> weights_OI, const ExpertRows& rows) {
  if (by_aten(rows, x_PI)) return at::_grouped_mm(x_PI, side_by_side(weights_OI).transpose(1, 2), rows.ends_E);
  at::Tensor y_PO = at::empty({x_PI.size(0), weights_OI[0].size(0)}, x_PI.options());
  for_experts(x_PI, rows.first, weights_OI.size(), [&](size_t e, int64_t at, int64_t count) {
    at::Tensor y = y_PO.narrow(0, at, count);
    times_transposed_into(y, x_PI.narrow(0, at, count), weights_OI[e]);
  });
  return y_PO;
}

at::Tensor grouped_times(const at::Tensor& dy_PO, std::span<const at::Tensor> weights_OI, const ExpertRows& rows) {
  if (by_aten(rows, dy_PO)) return at::_grouped_mm(dy_PO, side_by_side(weights_OI), rows.ends_E);
  at::Tensor dx_PI = at::empty({dy_PO.size(0), weights_OI[0].size(1)}, dy_PO.options());
  for_experts(dy_PO, rows.first, weights_OI.size(), [&](size_t e, int64_t at, int64_t count) {
    at::Tensor dx = dx_PI.narrow(0, at, count);
    times_into(dx, dy_PO.narrow(0, at, count), weights_OI[e]);
  });
  return dx_PI;
}

void grouped_add_transposed_product(std::span<at::Tensor> gradients_OI, const at::Tensor& dy_PO, const at::Tensor& x_PI, const ExpertRows& rows) {
  if (by_aten(rows, x_PI)) return grouped_add_on_device(gradients_OI, dy_PO, x_PI, rows.ends_E);
  for_experts(dy_PO, rows.first, gradients_OI.size(), [&](size_t e, int64_t at, int64_t count) {
    if (gradients_OI[e].defined()) add_transposed_product(gradients_OI[e], dy_PO.narrow(0, at, count), x_PI.narrow(0, at, count));
  });
}

}  // namespace ponte
