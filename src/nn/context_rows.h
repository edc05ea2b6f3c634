// Rows whose tokens lie on several context-parallel ranks (layout/context_split.h), brought together and taken apart again, with gradients: for mixers
// that go through a row from its beginning to its end.
#pragma once
#include <ATen/core/Tensor.h>

#include <memory>

#include "comm/group.h"

namespace ponte {

// x_SW: this rank's tokens of B rows, row by row -> all tokens of the rows, in order. Backward: what all ranks' results make of this rank's tokens.
at::Tensor whole_rows(const at::Tensor& x_SW, int64_t B, const std::shared_ptr<Group>& context);
// All tokens of B rows -> this rank's.
at::Tensor own_tokens(const at::Tensor& y_SW, int64_t B, const std::shared_ptr<Group>& context);
// The same for a value per token that has no gradient: int64 [B, T], undefined stays undefined.
at::Tensor whole_rows_of_ids(const at::Tensor& ids_BT, const std::shared_ptr<Group>& context);

}  // namespace ponte
