#include "model/speculation.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "base/errors.h"
#include "model/cached_pass.h"
#include "model/decode.h"

namespace ponte {
namespace {

// [B, T], right-padded with zeros.
at::Tensor padded(const std::vector<at::Tensor>& rows) { return at::pad_sequence(rows, /*batch_first=*/true); }

// Logits of each row's last token.
CachedPass predict(const Model::State& s, const PredictionLayer& layer, const at::Tensor& tokens_BT, const at::Tensor& hidden_SH, KvCache& cache,
                   const CachedStep& step) {
  const std::vector<int64_t> last = last_tokens(step);
  if (can_decode(s, step.B, step.T)) return decode(s, layer, tokens_BT, hidden_SH, cache, step, last);
  const auto on_device = [&](const at::Tensor& t) { return t.to(s.options.device, /*non_blocking=*/true); };
  const at::Tensor x_SH = layer.merge(s.embedding(on_device(tokens_BT.reshape({-1}))), hidden_SH);
  const at::Tensor y_SH = layer.final_norm(run_layer(layer.layer, x_SH, 0, cache, step));
  return {y_SH, s.loss_head.logits(y_SH.index_select(0, on_device(at::tensor(last, at::kLong))))};
}

}  // namespace

Speculation::Speculation(Model& model, int64_t rows, int64_t max_tokens, int64_t guesses)
    : model_(model), depths_(std::min<int64_t>(guesses, model.config().mtp_num_layers)), cache_(model, rows, max_tokens), rows_(rows) {
  const Model::State& s = *model.state_;
  PONTE_ASSERT(guesses >= 1);
  require(!s.prediction.empty(), "multi-token prediction: the model has no prediction layers (no tensors mtp.*) to guess with");
  require(!s.rotary.depends_on_length(), "multi-token prediction: guesses would change the angles of dynamic rope scaling");
  for (int64_t k = 0; k < depths_; ++k) {
    require(std::holds_alternative<SelfAttention>(s.prediction[k].layer.mixer), "multi-token prediction: layer {} is no full attention", k);
    depth_caches_.emplace_back(std::span(&s.prediction[k].layer, 1), model.options(), rows, max_tokens);
  }
  cache_.allow_take_back(1 + guesses);
}

at::Tensor Speculation::read(const at::Tensor& tokens_BT, const std::vector<int64_t>& counts) {
  c10::InferenceMode inference;
  const CachedPass pass = cached_pass(*model_.state_, tokens_BT, cache_, counts, Logits::last_token);
  hidden_BTH_ = pass.hidden_SH.view({tokens_BT.size(0), tokens_BT.size(1), -1}).to(model_.options().dtype);
  for (size_t b = 0; b < rows_.size(); ++b) {
    const at::Tensor tokens_T = tokens_BT[static_cast<int64_t>(b)].narrow(0, 0, counts[b]).cpu().contiguous();
    const auto* ids = tokens_T.const_data_ptr<int64_t>();
    rows_[b] = {{ids, ids + counts[b]}, counts[b], hidden_BTH_[static_cast<int64_t>(b)].narrow(0, 0, counts[b]), 0};
  }
  return pass.logits;
}

// Depth k (from 0) over what hidden_BTH holds: row b's places from its cache's length on, each with the token `ahead` places on. Logits after the last.
at::Tensor Speculation::run_depth(size_t depth, const at::Tensor& hidden_BTH, const std::vector<int64_t>& counts, int64_t ahead) {
  const Model::State& s = *model_.state_;
  const PredictionLayer& layer = s.prediction[depth];
  KvCache& cache = depth_caches_[depth];
  const int64_t B = hidden_BTH.size(0), T = hidden_BTH.size(1);
  at::Tensor tokens_BT = at::zeros({B, T}, at::kLong);
  cache.make_room(*std::max_element(cache.lengths().begin(), cache.lengths().end()) + T);
  for (int64_t b = 0; b < B; ++b)
    for (int64_t t = 0; t < counts[b]; ++t) tokens_BT.accessor<int64_t, 2>()[b][t] = rows_[b].tokens.at(cache.length(b) + t + ahead);
  const CachedStep step = cached_step(s, tokens_BT, cache, counts);
  const CachedPass pass = predict(s, layer, tokens_BT, hidden_BTH.reshape({B * T, -1}), cache, step);
  hidden_BTH_ = pass.hidden_SH.view({B, T, -1}).to(model_.options().dtype);
  counts_ = counts;
  for (int64_t b = 0; b < B; ++b) cache.advance(b, counts[b]);
  return pass.logits;
}

at::Tensor Speculation::guess(const std::vector<int64_t>& tokens_B) {
  c10::InferenceMode inference;
  for (size_t b = 0; b < rows_.size(); ++b) rows_[b].tokens.push_back(tokens_B[b]);
  ++round_;
  const int64_t depth = std::min(round_, depths_);
  if (round_ == 1) {
    std::vector<at::Tensor> hidden;
    counts_.clear();
    for (const Row& row : rows_) hidden.push_back(row.hidden_TH), counts_.push_back(row.hidden_TH.size(0));
    hidden_BTH_ = padded(hidden);
  }
  if (round_ <= depths_) return run_depth(depth - 1, hidden_BTH_, counts_, round_);
  // The last depth goes one place on, from its own hidden state.
  std::vector<at::Tensor> hidden;
  for (size_t b = 0; b < rows_.size(); ++b) hidden.push_back(hidden_BTH_[static_cast<int64_t>(b)].narrow(0, counts_[b] - 1, 1));
  return run_depth(depth - 1, padded(hidden), std::vector<int64_t>(rows_.size(), 1), depths_);
}

at::Tensor Speculation::check(const std::vector<int64_t>& tokens_B) {
  c10::InferenceMode inference;
  const int64_t B = static_cast<int64_t>(rows_.size()), R = ++round_;
  at::Tensor tokens_BR = at::empty({B, R}, at::kLong);
  for (int64_t b = 0; b < B; ++b) {
    rows_[b].tokens.push_back(tokens_B[b]);
    for (int64_t t = 0; t < R; ++t) tokens_BR.accessor<int64_t, 2>()[b][t] = rows_[b].tokens.at(rows_[b].read + t);
  }
  cache_.make_room(*std::max_element(cache_.lengths().begin(), cache_.lengths().end()) + R);
  const CachedPass pass = cached_pass(*model_.state_, tokens_BR, cache_, {}, Logits::every_token);
  hidden_BTH_ = pass.hidden_SH.view({B, R, -1}).to(model_.options().dtype);
  return pass.logits;
}

void Speculation::keep(const std::vector<Kept>& kept) {
  c10::InferenceMode inference;
  std::vector<int64_t> staying;
  std::vector<Row> rows;
  for (const auto& [b, tokens] : kept) {
    Row row = std::move(rows_[b]);
    // Depth k read the token k places on: up to here it was a certain one, at every depth.
    int64_t certain = std::max<int64_t>(row.read - depths_ + 1, 0);
    for (const KvCache& cache : depth_caches_) certain = std::min(certain, cache.length(b));
    for (KvCache& cache : depth_caches_) cache.truncate(b, certain);
    row.hidden_TH = at::cat({row.hidden_TH, hidden_BTH_[b].narrow(0, 0, tokens)}).slice(0, certain - row.first);
    row.first = certain;
    row.read += tokens;
    row.tokens.resize(row.read);
    cache_.take_back(b, round_ - tokens);
    staying.push_back(b);
    rows.push_back(std::move(row));
  }
  rows_ = std::move(rows);
  round_ = 0;
  if (staying.empty() || static_cast<int64_t>(staying.size()) == cache_.rows()) return;
  cache_.select_rows(staying);
  for (KvCache& cache : depth_caches_) cache.select_rows(staying);
}

}  // namespace ponte
