// SwiGLU of routed rows, each times its router weight: y = weight * silu(gate) * up. Applied here and not to the expert's output, the weight's gradient needs
// nothing kept but the projection itself (as Megatron's fused experts do).
#pragma once
#include <ATen/core/Tensor.h>

namespace ponte {

at::Tensor weighted_swiglu(const at::Tensor& gate_up_PF2, const at::Tensor& weight_P);  // [P, 2F], [P] -> [P, F]

struct WeightedSwiGluGradients {
  at::Tensor dgate_up_PF2, dweight_P;
  at::Tensor y_PF;  // forward's result again: what the next projection's weight gradient needs
};
WeightedSwiGluGradients weighted_swiglu_backward(const at::Tensor& dy_PF, const at::Tensor& gate_up_PF2, const at::Tensor& weight_P);

}  // namespace ponte
