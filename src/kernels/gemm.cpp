#include "kernels/gemm.h"

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

void product_into(at::Tensor& result, const at::Tensor& a, const at::Tensor& b, float beta) {
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
