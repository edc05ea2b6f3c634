#include "checkpoint/tensor_dtype.h"

#include "base/errors.h"

namespace ponte {

DType dtype_of(at::ScalarType type) {
  switch (type) {
    case at::kDouble: return DType::f64;
    case at::kFloat: return DType::f32;
    case at::kHalf: return DType::f16;
    case at::kBFloat16: return DType::bf16;
    default: break;
  }
  PONTE_ASSERT(!"a parameter of this element type");
}

at::ScalarType scalar_type_of(DType type) {
  switch (type) {
    case DType::f64: return at::kDouble;
    case DType::f32: return at::kFloat;
    case DType::f16: return at::kHalf;
    case DType::bf16: return at::kBFloat16;
    default: fail("model.params_dtype is {}: expected torch.float32, torch.bfloat16 or torch.float16", torch_name(type));
  }
}

}  // namespace ponte
