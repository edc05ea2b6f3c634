// The block runner: how a stretch of layers is run. Plain keeps what backward needs; recompute keeps only the input and runs the stretch again in
// backward (Chen et al. 2016). Results are bitwise the same.
#pragma once
#include <ATen/core/Tensor.h>

#include <functional>

namespace ponte {

using Block = std::function<at::Tensor(const at::Tensor&)>;

// Runs block(x) without keeping its intermediate results; backward runs it again. What the block refers to must live until then.
at::Tensor run_with_recompute(const Block& block, const at::Tensor& x);

}  // namespace ponte
