#include "nn/loss_head.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "base/errors.h"
#include "kernels/cross_entropy.h"
#include "kernels/gemm.h"
#include "nn/embedding.h"
#include "nn/parameters.h"

namespace ponte {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kChunkBytes = 128 << 20;  // logits alive at once

int64_t chunk_rows(const at::Tensor& hidden_SH, int64_t vocabulary) {
  const int64_t rows = kChunkBytes / (std::max<int64_t>(vocabulary, 1) * hidden_SH.element_size());
  return std::max<int64_t>(64, rows / 64 * 64);
}

// Softmax over a vocabulary of which this rank holds some columns: largest and sum over all ranks.
SoftmaxStatistics whole_statistics(const at::Tensor& logits_SV, Group& group) {
  SoftmaxStatistics local = softmax_statistics(logits_SV);
  if (group.size() == 1) return local;
  at::Tensor largest = local.largest_S.clone();
  group.all_reduce(largest, ReduceOp::max);
  at::Tensor sum = local.sum_S * at::exp(local.largest_S - largest);
  group.all_reduce(sum, ReduceOp::sum);
  return {largest, sum};
}

// The label's own logit, from whichever rank holds its column.
at::Tensor label_logits(const at::Tensor& logits_SV, const at::Tensor& local_labels_S, at::ScalarType wide, Group& group) {
  const at::Tensor absent = at::logical_or(local_labels_S < 0, local_labels_S >= logits_SV.size(1));
  at::Tensor own = at::gather(logits_SV, 1, local_labels_S.masked_fill(absent, 0).unsqueeze(1)).squeeze(1).to(wide);
  own = own.masked_fill(absent, 0);
  group.all_reduce(own, ReduceOp::sum);
  return own;
}

struct LossFunction : torch::autograd::Function<LossFunction> {
  static variable_list forward(AutogradContext* context, const at::Tensor& hidden_SH, const at::Tensor& weight_VH, const at::Tensor& labels_S,
                               const at::Tensor& weight_S, Parameter* parameter, Group* group, bool want_gradients) {
    const VocabularyRows rows = vocabulary_rows(*parameter);
    const at::Tensor used_VH = weight_VH.narrow(0, 0, rows.end - rows.begin), local_labels_S = labels_S - rows.begin;
    const at::ScalarType wide = hidden_SH.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    const at::Tensor losses_S = at::empty({hidden_SH.size(0)}, hidden_SH.options().dtype(wide));
    at::Tensor dhidden_SH = want_gradients ? at::empty_like(hidden_SH) : at::Tensor();
    const int64_t S = hidden_SH.size(0), chunk = chunk_rows(hidden_SH, used_VH.size(0));
    const at::Tensor buffer_SV = at::empty({std::min(chunk, S), used_VH.size(0)}, hidden_SH.options());
    for (int64_t at = 0; at < S; at += chunk) {
      const int64_t n = std::min(chunk, S - at);
      const at::Tensor h = hidden_SH.narrow(0, at, n), labels = local_labels_S.narrow(0, at, n);
      at::Tensor logits_SV = buffer_SV.narrow(0, 0, n);
      times_transposed_into(logits_SV, h, used_VH);
      const SoftmaxStatistics statistics = whole_statistics(logits_SV, *group);
      const at::Tensor log_sum = statistics.largest_S + at::log(statistics.sum_S);
      losses_S.narrow(0, at, n).copy_(log_sum - label_logits(logits_SV, labels, wide, *group));
      if (!want_gradients) continue;
      softmax_gradient_(logits_SV, log_sum, labels, weight_S.narrow(0, at, n));
      at::Tensor dh = dhidden_SH.narrow(0, at, n);
      times_into(dh, logits_SV, used_VH);
      if (!parameter->value.requires_grad()) continue;
      at::Tensor gradient_VH = gradient_of(*parameter).narrow(0, 0, used_VH.size(0));
      add_transposed_product(gradient_VH, logits_SV, h);
    }
    if (want_gradients) context->save_for_backward({dhidden_SH});
    context->mark_non_differentiable({losses_S});
    return {(losses_S * weight_S).sum(), losses_S};
  }
  static variable_list backward(AutogradContext* context, variable_list dy) {
    // The weight's gradient already stands: another factor here would contradict it.
    PONTE_ASSERT(dy[0].numel() == 1 && (!dy[0].device().is_cpu() || dy[0].item<double>() == 1.0));
    variable_list out(7);
    out[0] = context->get_saved_variables()[0];
    return out;
  }
};

}  // namespace

TokenLosses LossHead::operator()(const at::Tensor& hidden_SH, const at::Tensor& labels_S, const at::Tensor& weight_S) const {
  const at::Tensor whole_SH = region.enter(hidden_SH);
  const auto out = LossFunction::apply(whole_SH, weight->value, labels_S, weight_S, weight, region.group.get(), at::GradMode::is_enabled());
  return {out[1].detach(), out[0]};
}

at::Tensor LossHead::logits(const at::Tensor& hidden_SH) const {
  at::NoGradGuard off;
  const at::Tensor whole_SH = region.enter(hidden_SH);
  // All ranks' columns side by side, padding included; the padding is at the end.
  const at::Tensor local_VS = times_transposed(whole_SH, weight->value).t().to(hidden_SH.scalar_type() == at::kDouble ? at::kDouble : at::kFloat).contiguous();
  return region.group->all_gather(local_VS).narrow(0, 0, weight->rule->shape[0]).t().contiguous();
}

}  // namespace ponte
