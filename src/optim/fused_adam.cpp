#include "optim/fused_adam.h"

#include <ATen/ATen.h>

#include "kernels/device.h"

namespace ponte {

void fused_adam_update(const FusedTensors& t, const AdamScalars& s, int64_t steps) {
  if (t.params.empty()) return;
  const at::TensorOptions scalar = at::TensorOptions(t.params[0].device()).dtype(at::kFloat);
  const std::vector<at::Tensor> counts(t.params.size(), at::full({}, static_cast<double>(steps), scalar));
  constexpr bool kAmsgrad = false, kMaximize = false;
  // ATen divides by its scale.
  at::_fused_adamw_(t.params, t.gradients, t.exp_avgs, t.exp_avg_sqs, {}, counts, s.lr, s.beta1, s.beta2, s.weight_decay, s.eps, kAmsgrad, kMaximize,
                    at::full({}, 1.0 / s.gradient_scale, scalar), {});
}

Measured measure_on_device(const std::vector<at::Tensor>& tensors, CountZeros zeros) {
  Measured out;
  if (tensors.empty()) return out;
  const auto to_host = [](const at::Tensor& t) { return in_host_memory(t.to(at::kDouble)).contiguous(); };
  std::vector<at::Tensor> norms = at::_foreach_norm(tensors, 2, at::kDouble);  // squares of large fp32 values are beyond fp32
  const at::Tensor all = to_host(at::stack(norms));
  out.norms.assign(all.const_data_ptr<double>(), all.const_data_ptr<double>() + all.numel());
  if (zeros == CountZeros::no) return out;
  std::vector<at::Tensor> counts;
  for (const at::Tensor& t : tensors) counts.push_back(t.eq(0).sum());
  const at::Tensor counted = to_host(at::stack(counts));
  for (int64_t i = 0; i < counted.numel(); ++i) out.zeros.push_back(static_cast<int64_t>(counted.const_data_ptr<double>()[i]));
  return out;
}

}  // namespace ponte
