// SwiGLU (Shazeer 2020): y = silu(gate) * up, with gate and up the halves of one projection's output.
#pragma once
#include <ATen/core/Tensor.h>

namespace ponte {

at::Tensor swiglu(const at::Tensor& gate_up_SF2);                                  // [S, 2F] -> [S, F]
at::Tensor swiglu_backward(const at::Tensor& dy_SF, const at::Tensor& gate_up_SF2);

at::Tensor swiglu_reference(const at::Tensor& gate_up_SF2);
at::Tensor swiglu_backward_reference(const at::Tensor& dy_SF, const at::Tensor& gate_up_SF2);

}  // namespace ponte
