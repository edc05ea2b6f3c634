// Matrix products of a linear layer. On a CPU with oneDNN's kernels fp32 goes there as well as bf16: ATen alone sends fp32 to MKL, which runs at less
// than half the speed on processors that are not Intel's. bf16 has a product of its own where the processor multiplies bf16 without a matrix unit
// (bf16_product.h). Elsewhere: ATen.
#pragma once
#include <ATen/core/Tensor.h>

namespace ponte {

// y_SO = x_SI w_OI^T.
at::Tensor times_transposed(const at::Tensor& x_SI, const at::Tensor& w_OI);
// As above into `y` (contiguous, or rows of a larger buffer).
void times_transposed_into(at::Tensor& y_SO, const at::Tensor& x_SI, const at::Tensor& w_OI);
// dx_SI = dy_SO w_OI.
at::Tensor times(const at::Tensor& dy_SO, const at::Tensor& w_OI);
void times_into(at::Tensor& dx_SI, const at::Tensor& dy_SO, const at::Tensor& w_OI);
// gradient_OI += dy_SO^T x_SI. The gradient is fp32 for fp32, bf16 and fp16 operands, fp64 for fp64. For bf16 on a processor the product of one call is
// rounded to bf16 before it is added where bf16_product.h does not run; CUDA adds the fp32 sums.
void add_transposed_product(at::Tensor& gradient_OI, const at::Tensor& dy_SO, const at::Tensor& x_SI);

}  // namespace ponte
