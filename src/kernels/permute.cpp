#include "kernels/permute.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstring>

#include "base/errors.h"
#include "kernels/dispatch.h"

namespace ponte {

Permutation permutation_on_device(const at::Tensor& experts_SK, int64_t E) {
  const at::Tensor experts = experts_SK.reshape({-1}), unsent = at::lt(experts, 0);
  constexpr bool kStable = true, kDescending = false, kInt32 = true, kRight = true;
  const auto [sorted_P, pair_P] = at::sort(experts.masked_fill(unsent, E), kStable, 0, kDescending);
  const at::Tensor numbers = at::arange(experts.numel(), experts.options());
  Permutation out;
  out.rows.ends_E = at::searchsorted(sorted_P, at::arange(E, experts.options()), kInt32, kRight);
  out.pair_P = pair_P;
  out.token_P = at::floor_divide(pair_P, experts_SK.size(1));
  out.row_SK = at::empty_like(experts).scatter_(0, pair_P, numbers).masked_fill(unsent, -1).view(experts_SK.sizes());
  return out;
}

Permutation known_to_host(Permutation permutation, int64_t expected) {
  if (!permutation.rows.ends_E.defined()) return permutation;
  at::Tensor ends = permutation.rows.ends_E;
  const int64_t E = ends.size(0);
  if (ends.is_meta()) ends = at::arange(1, E + 1, at::kLong).mul(expected).div(E, "floor").to(at::kInt);
  else ends = ends.to(at::kCPU);
  std::vector<int64_t>& first = permutation.rows.first = {0};
  first.insert(first.end(), ends.const_data_ptr<int32_t>(), ends.const_data_ptr<int32_t>() + ends.numel());
  permutation.token_P = permutation.token_P.narrow(0, 0, first.back());
  permutation.pair_P = permutation.pair_P.narrow(0, 0, first.back());
  return permutation;
}

Permutation permutation_of(const at::Tensor& experts_SK, int64_t E) {
  if (!experts_SK.device().is_cpu()) return permutation_on_device(experts_SK, E);
  const at::Tensor experts = experts_SK.contiguous();
  const int64_t pairs = experts.numel(), K = experts.size(1);
  const int64_t* expert = experts.const_data_ptr<int64_t>();
  Permutation out;
  std::vector<int64_t>& first = out.rows.first;
  first.assign(static_cast<size_t>(E) + 1, 0);
  for (int64_t i = 0; i < pairs; ++i) {
    PONTE_ASSERT(expert[i] >= -1 && expert[i] < E);
    if (expert[i] >= 0) ++first[expert[i] + 1];
  }
  for (int64_t e = 0; e < E; ++e) first[e + 1] += first[e];
  const int64_t P = first[E];
  at::Tensor tokens = at::empty({P}, at::kLong), pair = at::empty({P}, at::kLong), rows = at::empty(experts.sizes(), at::kLong);
  int64_t *token_of = tokens.mutable_data_ptr<int64_t>(), *pair_of = pair.mutable_data_ptr<int64_t>(), *row_of = rows.mutable_data_ptr<int64_t>();
  std::vector<int64_t> next(first.begin(), first.end() - 1);
  for (int64_t i = 0; i < pairs; ++i) {
    if (expert[i] < 0) {
      row_of[i] = -1;
      continue;
    }
    const int64_t row = next[expert[i]]++;
    row_of[i] = row;
    pair_of[row] = i;
    token_of[row] = i / K;
  }
  out.token_P = tokens;
  out.pair_P = pair;
  out.row_SK = rows;
  return out;
}

at::Tensor gather_tokens(const at::Tensor& x_SH, const at::Tensor& token_P) {
  if (!has_vector_path(x_SH)) return at::index_select(x_SH, 0, token_P);
  const at::Tensor x = x_SH.contiguous();
  at::Tensor y = at::empty({token_P.size(0), x.size(1)}, x.options());
  const int64_t* token = token_P.const_data_ptr<int64_t>();
  const size_t bytes = static_cast<size_t>(x.size(1)) * x.element_size();
  const auto* from = static_cast<const std::byte*>(x.const_data_ptr());
  auto* to = static_cast<std::byte*>(y.mutable_data_ptr());
  for_ranges(token_P.size(0), [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) std::memcpy(to + p * bytes, from + token[p] * bytes, bytes);
  });
  return y;
}

at::Tensor sum_rows_reference(const at::Tensor& x_PH, const at::Tensor& row_SK) {
  const at::Tensor unsent = at::lt(row_SK, 0).reshape({-1, 1});
  at::Tensor y = at::zeros({row_SK.size(0), x_PH.size(1)}, x_PH.options().dtype(accumulation_type(x_PH)));
  if (x_PH.size(0) == 0) return y.to(x_PH.scalar_type());
  const at::Tensor rows = at::index_select(x_PH, 0, at::clamp_min(row_SK, 0).reshape({-1})).to(y.scalar_type()).masked_fill(unsent, 0);
  return rows.view({row_SK.size(0), row_SK.size(1), x_PH.size(1)}).sum(1).to(x_PH.scalar_type());
}

at::Tensor sum_rows(const at::Tensor& x_PH, const at::Tensor& row_SK) {
  if (!has_vector_path(x_PH)) return sum_rows_reference(x_PH, row_SK);
  const at::Tensor x = x_PH.contiguous();
  const int64_t S = row_SK.size(0), K = row_SK.size(1), H = x.size(1);
  at::Tensor y = at::empty({S, H}, x.options());
  const int64_t* row = row_SK.const_data_ptr<int64_t>();
  with_vector_type(x, [&]<class T>(T) {
    for_ranges(S, [&](int64_t, int64_t begin, int64_t end) {
      std::vector<float> sum(static_cast<size_t>(H));
      for (int64_t s = begin; s < end; ++s) {
        std::fill(sum.begin(), sum.end(), 0.0f);
        for (int64_t k = 0; k < K; ++k)
          if (const int64_t p = row[s * K + k]; p >= 0) vector_kernels<T>().add_to_float(H, pointer<T>(x) + p * H, sum.data());
        vector_kernels<T>().from_float(H, sum.data(), pointer<T>(y) + s * H);
      }
    });
  });
  return y;
}

}  // namespace ponte
