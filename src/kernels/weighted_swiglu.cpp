#include "kernels/weighted_swiglu.h"

#include <ATen/ATen.h>

#include "kernels/dispatch.h"
#include "kernels/swiglu.h"

namespace ponte {
namespace {

constexpr int64_t kRowsAtOnce = 8;  // so that a row is still in cache when it is weighted

// y = x * factor in T, rounded once.
template <class T>
void scale_row(int64_t n, const T* x, float factor, float* scratch, T* y) {
  const auto& kernels = vector_kernels<T>();
  kernels.to_float(n, x, scratch);
  for (int64_t i = 0; i < n; ++i) scratch[i] *= factor;
  kernels.from_float(n, scratch, y);
}

// body(begin, rows) over the rows of a range, a few at a time.
template <class Body>
void for_row_blocks(int64_t begin, int64_t end, Body body) {
  for (int64_t at = begin; at < end; at += kRowsAtOnce) body(at, std::min(kRowsAtOnce, end - at));
}

float dot(int64_t n, const float* a, const float* b) {
  float lanes[16] = {};
  int64_t i = 0;
  for (; i + 16 <= n; i += 16)
    for (int64_t l = 0; l < 16; ++l) lanes[l] += a[i + l] * b[i + l];
  float sum = 0;
  for (; i < n; ++i) sum += a[i] * b[i];
  for (const float lane : lanes) sum += lane;
  return sum;
}

}  // namespace

at::Tensor weighted_swiglu(const at::Tensor& gate_up_PF2, const at::Tensor& weight_P) {
  if (!has_vector_path(gate_up_PF2)) return (swiglu(gate_up_PF2) * weight_P.unsqueeze(1)).to(gate_up_PF2.scalar_type());
  const at::Tensor x = gate_up_PF2.contiguous(), weights = weight_P.to(at::kFloat).contiguous();
  const int64_t F = x.size(1) / 2;
  const float* weight = weights.const_data_ptr<float>();
  at::Tensor y = at::empty({x.size(0), F}, x.options());
  with_vector_type(x, [&]<class T>(T) {
    for_ranges(x.size(0), [&](int64_t, int64_t begin, int64_t end) {
      std::vector<float> scratch(static_cast<size_t>(F));
      for_row_blocks(begin, end, [&](int64_t at, int64_t rows) {
        vector_kernels<T>().swiglu(rows, F, pointer<T>(x) + at * 2 * F, pointer<T>(y) + at * F);
        for (int64_t p = at; p < at + rows; ++p) scale_row(F, pointer<T>(y) + p * F, weight[p], scratch.data(), pointer<T>(y) + p * F);
      });
    });
  });
  return y;
}

WeightedSwiGluGradients weighted_swiglu_backward(const at::Tensor& dy_PF, const at::Tensor& gate_up_PF2, const at::Tensor& weight_P) {
  if (!has_vector_path(gate_up_PF2)) {
    const at::Tensor plain = swiglu(gate_up_PF2), weight = weight_P.unsqueeze(1);
    const at::Tensor dplain = (dy_PF * weight).to(dy_PF.scalar_type());
    return {swiglu_backward(dplain, gate_up_PF2), (dy_PF * plain).to(weight_P.scalar_type()).sum(1), (plain * weight).to(plain.scalar_type())};
  }
  const at::Tensor x = gate_up_PF2.contiguous(), dy = dy_PF.contiguous(), weights = weight_P.to(at::kFloat).contiguous();
  const int64_t F = x.size(1) / 2;
  const float* weight = weights.const_data_ptr<float>();
  WeightedSwiGluGradients out{at::empty_like(x), at::empty({x.size(0)}, weights.options()), at::empty({x.size(0), F}, x.options())};
  float* dweight = out.dweight_P.mutable_data_ptr<float>();
  with_vector_type(x, [&]<class T>(T) {
    const auto& kernels = vector_kernels<T>();
    T *y = pointer<T>(out.y_PF), *dx = pointer<T>(out.dgate_up_PF2);
    for_ranges(x.size(0), [&](int64_t, int64_t begin, int64_t end) {
      std::vector<float> value(static_cast<size_t>(F)), gradient(static_cast<size_t>(F));
      std::vector<T> dplain(static_cast<size_t>(F));
      for_row_blocks(begin, end, [&](int64_t at, int64_t rows) {
        kernels.swiglu(rows, F, pointer<T>(x) + at * 2 * F, y + at * F);
        for (int64_t p = at; p < at + rows; ++p) {
          kernels.to_float(F, y + p * F, value.data());
          kernels.to_float(F, pointer<T>(dy) + p * F, gradient.data());
          dweight[p] = dot(F, value.data(), gradient.data());
          for (int64_t i = 0; i < F; ++i) value[i] *= weight[p], gradient[i] *= weight[p];
          kernels.from_float(F, value.data(), y + p * F);
          kernels.from_float(F, gradient.data(), dplain.data());
          kernels.swiglu_backward(1, F, dplain.data(), pointer<T>(x) + p * 2 * F, dx + p * 2 * F);
        }
      });
    });
  });
  out.dweight_P = out.dweight_P.to(weight_P.scalar_type());
  return out;
}

}  // namespace ponte
