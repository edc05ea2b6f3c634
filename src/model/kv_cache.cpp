#include "model/kv_cache.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "base/errors.h"
#include "model/state.h"

namespace ponte {

KvCache::KvCache(const Model& model, int64_t rows, int64_t max_tokens) : max_tokens_(max_tokens), lengths_(rows, 0) {
  require(rows >= 1 && max_tokens >= 1, "generation: a cache of {} rows of {} tokens", rows, max_tokens);
  const auto options = at::TensorOptions(model.options().device).dtype(model.options().dtype);
  for (const DecoderLayer& layer : model.state_->decoder.layers) {
    const auto* full = std::get_if<SelfAttention>(&layer.mixer);
    for (auto* tensors : {&keys_, &values_})
      tensors->push_back(full ? at::empty({rows, full->layout.groups, max_tokens, full->layout.head_dim}, options) : at::Tensor());
    memories_.push_back(full ? GatedDeltaMemory() : make_memory(std::get<GatedDeltaNet>(layer.mixer), rows));
  }
}

int64_t KvCache::truncate(int64_t row, int64_t length) {
  PONTE_ASSERT(length >= 0 && length <= lengths_.at(row));
  const bool way_back = std::none_of(memories_.begin(), memories_.end(), [](const GatedDeltaMemory& m) { return m.state_BNDV.defined(); });
  if (length != lengths_[row]) lengths_[row] = way_back ? length : 0;
  return lengths_[row];
}

void KvCache::make_room(int64_t tokens) {
  if (tokens <= max_tokens_) return;
  at::NoGradGuard off;
  const int64_t room = std::max(tokens, 2 * max_tokens_), used = *std::max_element(lengths_.begin(), lengths_.end());
  for (auto* tensors : {&keys_, &values_})
    for (at::Tensor& t : *tensors) {
      if (!t.defined()) continue;  // linear attention
      at::Tensor larger = at::empty({t.size(0), t.size(1), room, t.size(3)}, t.options());
      larger.narrow(2, 0, used).copy_(t.narrow(2, 0, used));
      t = std::move(larger);
    }
  max_tokens_ = room;
}

void KvCache::clear() { std::fill(lengths_.begin(), lengths_.end(), 0); }

void KvCache::advance(int64_t row, int64_t tokens) { lengths_.at(row) += tokens; }

void KvCache::select_rows(const std::vector<int64_t>& rows) {
  at::NoGradGuard off;
  std::vector<int64_t> lengths;
  for (const int64_t row : rows) lengths.push_back(lengths_.at(row));
  const at::Tensor index = at::tensor(rows, at::kLong);
  const auto select = [&index](at::Tensor& t) {
    if (t.defined()) t = t.index_select(0, index.to(t.device()));
  };
  for (auto* tensors : {&keys_, &values_})
    for (at::Tensor& t : *tensors) select(t);
  for (GatedDeltaMemory& m : memories_) select(m.history_BHC), select(m.state_BNDV);
  lengths_ = std::move(lengths);
}

}  // namespace ponte
