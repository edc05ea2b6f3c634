// Element types across the line between files and tensors.
#pragma once
#include <ATen/core/Tensor.h>

#include "base/dtype.h"

namespace ponte {

DType dtype_of(at::ScalarType type);        // types parameters have: fp64, fp32, fp16, bf16
at::ScalarType scalar_type_of(DType type);  // UserError for any other

}  // namespace ponte
