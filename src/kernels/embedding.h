// Rows of a table by index, and their gradient. Ids outside [0, rows) give zero rows and receive nothing: the rest of a sharded vocabulary.
#pragma once
#include <ATen/core/Tensor.h>

namespace ponte {

at::Tensor gather_rows(const at::Tensor& table_VH, const at::Tensor& ids_S);
// gradient[id] += dy, summed in the order of the tokens whatever the number of threads. gradient fp32, or fp64 for fp64.
void add_rows(at::Tensor& gradient_VH, const at::Tensor& ids_S, const at::Tensor& dy_SH);

}  // namespace ponte
