#include "model/kv_cache.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "base/errors.h"
#include "model/state.h"

namespace ponte {

KvCache::KvCache(const Model& model, int64_t rows, int64_t max_tokens) : KvCache(model.state_->decoder.layers, model.options(), rows, max_tokens) {}

KvCache::KvCache(std::span<const DecoderLayer> layers, const ModelOptions& model, int64_t rows, int64_t max_tokens)
    : max_tokens_(max_tokens), lengths_(rows, 0), appended_(rows, 0), trails_(layers.size()) {
  require(rows >= 1 && max_tokens >= 1, "generation: a cache of {} rows of {} tokens", rows, max_tokens);
  const auto options = at::TensorOptions(model.device).dtype(model.dtype);
  for (const DecoderLayer& layer : layers) {
    const auto* full = std::get_if<SelfAttention>(&layer.mixer);
    for (auto* tensors : {&keys_, &values_})
      tensors->push_back(full ? at::empty({rows, full->layout.groups, max_tokens, full->layout.head_dim}, options) : at::Tensor());
    memories_.push_back(full ? GatedDeltaMemory() : make_memory(std::get<GatedDeltaNet>(layer.mixer), rows));
  }
}

std::span<GatedDeltaMemory> KvCache::trail(int64_t layer, int64_t T) {
  if (T > take_back_tokens_) return {};
  auto& trail = trails_[layer];
  const GatedDeltaMemory& like = memories_[layer];
  while (static_cast<int64_t>(trail.size()) < T - 1) trail.push_back({at::empty_like(like.history_BHC), at::empty_like(like.state_BNDV)});
  return {trail.data(), static_cast<size_t>(T - 1)};
}

void KvCache::take_back(int64_t row, int64_t tokens) {
  const int64_t kept = appended_.at(row) - tokens;
  PONTE_ASSERT(tokens >= 0 && kept > 0);
  if (tokens == 0) return;
  lengths_[row] -= tokens;
  appended_[row] = kept;
  for (size_t i = 0; i < memories_.size(); ++i) {
    if (!memories_[i].state_BNDV.defined()) continue;
    PONTE_ASSERT(kept <= static_cast<int64_t>(trails_[i].size()));
    const GatedDeltaMemory& then = trails_[i][kept - 1];
    memories_[i].history_BHC[row].copy_(then.history_BHC[row]);
    memories_[i].state_BNDV[row].copy_(then.state_BNDV[row]);
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

void KvCache::advance(int64_t row, int64_t tokens) {
  lengths_.at(row) += tokens;
  appended_[row] = tokens;
}

void KvCache::select_rows(const std::vector<int64_t>& rows) {
  at::NoGradGuard off;
  std::vector<int64_t> lengths;
  for (const int64_t row : rows) lengths.push_back(lengths_.at(row));
  appended_.assign(rows.size(), 0);
  for (auto& trail : trails_) trail.clear();
  const at::Tensor index = at::tensor(rows, at::kLong);
  const auto select = [&index](at::Tensor& t) {
    if (t.defined()) t = t.index_select(0, index.to(t.device(), /*non_blocking=*/true));
  };
  for (auto* tensors : {&keys_, &values_})
    for (at::Tensor& t : *tensors) select(t);
  for (GatedDeltaMemory& m : memories_) select(m.history_BHC), select(m.state_BNDV);
  lengths_ = std::move(lengths);
}

}  // namespace ponte
