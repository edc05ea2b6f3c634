#include "nn/context_rows.h"

#include <ATen/ATen.h>

#include "comm/region.h"
#include "layout/context_split.h"

namespace ponte {
namespace {

at::Tensor places(const std::vector<int64_t>& values, const at::Tensor& like) { return at::tensor(values, at::kLong).to(like.device()); }

// Rank after rank -> ascending, along dim 0.
at::Tensor ascending(const at::Tensor& x_T, int64_t ranks) { return x_T.index_select(0, places(context_order(x_T.size(0), ranks), x_T).argsort()); }

}  // namespace

at::Tensor whole_rows(const at::Tensor& x_SW, int64_t B, const std::shared_ptr<Group>& context) {
  const at::Tensor x_TBW = x_SW.unflatten(0, {B, -1}).transpose(0, 1).contiguous();
  const std::vector<int64_t> rows(static_cast<size_t>(context->size()), x_TBW.size(0));
  return ascending(all_gather_rows(x_TBW, context, rows), context->size()).transpose(0, 1).flatten(0, 1).contiguous();
}

at::Tensor own_tokens(const at::Tensor& y_SW, int64_t B, const std::shared_ptr<Group>& context) {
  const at::Tensor y_BTW = y_SW.unflatten(0, {B, -1});
  return y_BTW.index_select(1, places(context_tokens(y_BTW.size(1), context->rank(), context->size()), y_SW)).flatten(0, 1);
}

at::Tensor whole_rows_of_ids(const at::Tensor& ids_BT, const std::shared_ptr<Group>& context) {
  if (!ids_BT.defined()) return ids_BT;
  return ascending(context->all_gather(ids_BT.t().contiguous()), context->size()).t().contiguous();
}

}  // namespace ponte
