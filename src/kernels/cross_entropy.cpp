#include "kernels/cross_entropy.h"

#include "kernels/dispatch.h"

namespace ponte {

SoftmaxStatistics softmax_statistics_reference(const at::Tensor& logits_SV) {
  const at::Tensor logits = logits_SV.to(accumulation_type(logits_SV));
  const at::Tensor largest = logits.amax(-1);
  return {largest, at::exp(logits - largest.unsqueeze(-1)).sum(-1)};
}

void softmax_gradient_reference_(at::Tensor& logits_SV, const at::Tensor& log_sum_S, const at::Tensor& labels_S, const at::Tensor& weight_S) {
  const auto wide = accumulation_type(logits_SV);
  at::Tensor p = at::exp(logits_SV.to(wide) - log_sum_S.unsqueeze(-1));
  p = p - (at::arange(logits_SV.size(1), labels_S.options()) == labels_S.unsqueeze(-1)).to(wide);
  logits_SV.copy_(at::where((weight_S == 0).unsqueeze(-1), at::zeros({}, p.options()), p * weight_S.unsqueeze(-1)));
}

SoftmaxStatistics softmax_statistics(const at::Tensor& logits_SV) {
  if (!has_vector_path(logits_SV) || logits_SV.stride(1) != 1) return softmax_statistics_reference(logits_SV);
  const int64_t stride = logits_SV.stride(0);
  const auto column = [&] { return at::empty({logits_SV.size(0)}, logits_SV.options().dtype(at::kFloat)); };
  const SoftmaxStatistics result{column(), column()};
  with_vector_type(logits_SV, [&]<class T>(T) {
    for_ranges(logits_SV.size(0), [&](int64_t, int64_t begin, int64_t end) {
      vector_kernels<T>().softmax_statistics(end - begin, logits_SV.size(1), stride, pointer<T>(logits_SV) + begin * stride,
                                             pointer<float>(result.largest_S) + begin, pointer<float>(result.sum_S) + begin);
    });
  });
  return result;
}

void softmax_gradient_(at::Tensor& logits_SV, const at::Tensor& log_sum_S, const at::Tensor& labels_S, const at::Tensor& weight_S) {
  if (!has_vector_path(logits_SV) || logits_SV.stride(1) != 1) return softmax_gradient_reference_(logits_SV, log_sum_S, labels_S, weight_S);
  const int64_t stride = logits_SV.stride(0);
  const at::Tensor log_sum = log_sum_S.contiguous(), labels = labels_S.contiguous(), weight = weight_S.contiguous();
  with_vector_type(logits_SV, [&]<class T>(T) {
    for_ranges(logits_SV.size(0), [&](int64_t, int64_t begin, int64_t end) {
      vector_kernels<T>().softmax_gradient(end - begin, logits_SV.size(1), stride, pointer<T>(logits_SV) + begin * stride, pointer<float>(log_sum) + begin,
                                           pointer<int64_t>(labels) + begin, pointer<float>(weight) + begin);
    });
  });
}

}  // namespace ponte
