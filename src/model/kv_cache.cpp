#include "model/kv_cache.h"

#include <ATen/ATen.h>

#include "base/errors.h"
#include "model/state.h"

namespace ponte {

KvCache::KvCache(const Model& model, int64_t rows, int64_t max_tokens) : max_tokens_(max_tokens), lengths_(rows, 0) {
  require(rows >= 1 && max_tokens >= 1, "generation: a cache of {} rows of {} tokens", rows, max_tokens);
  const auto options = at::TensorOptions(model.options().device).dtype(model.options().dtype);
  for (const DecoderLayer& layer : model.state_->decoder.layers)
    for (auto* tensors : {&keys_, &values_})
      tensors->push_back(at::empty({rows, layer.attention.layout.groups, max_tokens, layer.attention.layout.head_dim}, options));
}

void KvCache::truncate(int64_t row, int64_t length) {
  PONTE_ASSERT(length >= 0 && length <= lengths_.at(row));
  lengths_[row] = length;
}

void KvCache::clear() { std::fill(lengths_.begin(), lengths_.end(), 0); }

void KvCache::advance(int64_t row, int64_t tokens) { lengths_.at(row) += tokens; }

void KvCache::select_rows(const std::vector<int64_t>& rows) {
  at::NoGradGuard off;
  std::vector<int64_t> lengths;
  for (const int64_t row : rows) lengths.push_back(lengths_.at(row));
  const at::Tensor index = at::tensor(rows, at::kLong);
  for (auto* tensors : {&keys_, &values_})
    for (at::Tensor& t : *tensors) t = t.index_select(0, index.to(t.device()));
  lengths_ = std::move(lengths);
}

}  // namespace ponte
