#include "kernels/gemm.h"

#include <ATen/ops/empty.h>

#include <memory>

#include "kernels/bf16_product.h"
#include "kernels/dispatch.h"

// ATen's oneDNN matrix product: strided operands, result = beta * result + alpha * a b. Exported by libtorch_cpu but in no public header, so the
// reference is weak: a LibTorch without it falls back to ATen's own dispatch.
namespace at::native {
__attribute__((weak)) void mkldnn_matmul(const Tensor& a, const Tensor& b, const Tensor& result, float beta, float alpha);
}

namespace ponte {
namespace {

bool onednn_runs(const at::Tensor& t) {
  static const bool vector_units = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
  return vector_units && at::native::mkldnn_matmul && t.device().is_cpu() && (t.scalar_type() == at::kFloat || t.scalar_type() == at::kBFloat16);
}

bool worth_it(const at::Tensor& a, const at::Tensor& b) { return a.numel() > 0 && b.numel() > 0 && a.size(0) > 1; }

Bf16Matrix matrix_of(const at::Tensor& t) { return {static_cast<const uint16_t*>(t.const_data_ptr()), t.stride(0), t.stride(1)}; }
bool lies_in_lines(const at::Tensor& t) { return t.dim() == 2 && (t.stride(0) == 1 || t.stride(1) == 1); }

bool own_product_runs(const at::Tensor& result, const at::Tensor& a, const at::Tensor& b) {
  return a.scalar_type() == at::kBFloat16 && a.device().is_cpu() && bf16_product_runs() && worth_it(a, b) && lies_in_lines(a) && lies_in_lines(b) &&
         result.stride(1) == 1;
}

// result = a b, or result += a b for fp32.
void own_product_into(at::Tensor& result, const at::Tensor& a_MK, const at::Tensor& b_KN, bool accumulate) {
  const int64_t M = a_MK.size(0), K = a_MK.size(1), N = b_KN.size(1), panels = (N + kProductPanel - 1) / kProductPanel;
  const at::Tensor room = at::empty({packed_words(K, N)}, at::TensorOptions(at::kInt));
  auto* packed = reinterpret_cast<uint32_t*>(room.mutable_data_ptr<int32_t>());
  parallel_parts(0, panels, 1, [&](int64_t from, int64_t to) { pack_panels(matrix_of(b_KN), K, N, from, to, packed); });
  ProductRows out{.stride = result.stride(0), .accumulate = accumulate};
  if (result.scalar_type() == at::kFloat) out.fp32 = pointer<float>(result);
  else out.bf16 = pointer<uint16_t>(result);
  parallel_parts(0, M, 1, [&](int64_t from, int64_t to) {
    const std::unique_ptr<uint32_t[]> scratch(new uint32_t[static_cast<size_t>(product_scratch_words(K, N))]);
    product_rows(matrix_of(a_MK), packed, K, N, from, to, out, scratch.get());
  });
}

// Beyond this the packed operand leaves the cache, and oneDNN, which packs stretches, is faster.
constexpr int64_t kMostPackedWords = 1 << 20;

void product_into(at::Tensor& result, const at::Tensor& a, const at::Tensor& b, float beta) {
  if (beta == 0 && own_product_runs(result, a, b) && packed_words(b.size(0), b.size(1)) <= kMostPackedWords) return own_product_into(result, a, b, false);
  if (onednn_runs(a) && worth_it(a, b)) return at::native::mkldnn_matmul(a, b, result, beta, 1.0f);
  if (beta == 0)
    at::mm_out(result, a, b);
  else
    result.addmm_(a, b, beta, 1.0);
}

}  // namespace

void times_transposed_into(at::Tensor& y_SO, const at::Tensor& x_SI, const at::Tensor& w_OI) { product_into(y_SO, x_SI, w_OI.t(), 0); }

at::Tensor times_transposed(const at::Tensor& x_SI, const at::Tensor& w_OI) {
  at::Tensor y_SO = at::empty({x_SI.size(0), w_OI.size(0)}, x_SI.options());
  times_transposed_into(y_SO, x_SI, w_OI);
  return y_SO;
}

void times_into(at::Tensor& dx_SI, const at::Tensor& dy_SO, const at::Tensor& w_OI) { product_into(dx_SI, dy_SO, w_OI, 0); }

at::Tensor times(const at::Tensor& dy_SO, const at::Tensor& w_OI) {
  at::Tensor dx_SI = at::empty({dy_SO.size(0), w_OI.size(1)}, dy_SO.options());
  times_into(dx_SI, dy_SO, w_OI);
  return dx_SI;
}

void add_transposed_product(at::Tensor& gradient_OI, const at::Tensor& dy_SO, const at::Tensor& x_SI) {
  if (gradient_OI.scalar_type() == dy_SO.scalar_type()) return product_into(gradient_OI, dy_SO.t(), x_SI, 1);
  if (gradient_OI.scalar_type() == at::kFloat && own_product_runs(gradient_OI, dy_SO.t(), x_SI)) return own_product_into(gradient_OI, dy_SO.t(), x_SI, true);
  if (has_card_path(dy_SO) && gradient_OI.scalar_type() == at::kFloat) {  // cuBLAS adds the fp32 sums themselves
    at::addmm_out(gradient_OI, gradient_OI, dy_SO.t(), x_SI, at::kFloat);
    return;
  }
  at::Tensor product = at::empty(gradient_OI.sizes(), dy_SO.options());
  product_into(product, dy_SO.t(), x_SI, 0);
  if (!has_vector_path(product) || !gradient_OI.is_contiguous()) {
    gradient_OI.add_(product);
    return;
  }
  with_vector_type(product, [&]<class T>(T) {
    for_ranges(product.numel(), [&](int64_t, int64_t begin, int64_t end) {
      vector_kernels<T>().add_to_float(end - begin, pointer<T>(product) + begin, pointer<float>(gradient_OI) + begin);
    });
  });
}

}  // namespace ponte
