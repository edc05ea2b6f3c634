// The gated delta rule in chunks of tokens as batched matrix products in ATen (Yang, Kautz, Hatamizadeh 2024, section 3), differentiable: what devices
// without a kernel of their own run. Same inputs and results as gated_delta_reference.
#pragma once
#include "kernels/gated_delta.h"

namespace ponte {

GatedDeltaResult gated_delta_chunked(const GatedDeltaInputs& inputs);
// gated_delta_backward by autograd through it.
void gated_delta_chunked_backward(const at::Tensor& dout_SV, const GatedDeltaInputs& inputs, GatedDeltaGradients& gradients);

}  // namespace ponte
