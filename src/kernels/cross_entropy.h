// Softmax cross entropy over rows of logits, in the two passes a (possibly vocabulary-sharded) loss head needs: statistics of the columns at hand, then
// the gradient in place of the logits. fp32 arithmetic (fp64 for fp64).
#pragma once
#include <ATen/core/Tensor.h>

namespace ponte {

struct SoftmaxStatistics {
  at::Tensor largest_S, sum_S;  // sum of exp(logit - largest)
};
SoftmaxStatistics softmax_statistics(const at::Tensor& logits_SV);
// logits <- (exp(logit - log_sum) - [column == label]) * weight. Labels outside [0, V) touch no column. A weight of 0 gives exact zeros.
void softmax_gradient_(at::Tensor& logits_SV, const at::Tensor& log_sum_S, const at::Tensor& labels_S, const at::Tensor& weight_S);

SoftmaxStatistics softmax_statistics_reference(const at::Tensor& logits_SV);
void softmax_gradient_reference_(at::Tensor& logits_SV, const at::Tensor& log_sum_S, const at::Tensor& labels_S, const at::Tensor& weight_S);

}  // namespace ponte
