// Prefill, then one token per sequence and step.
#include "generate/decode_loop.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "base/errors.h"

namespace ponte {
namespace {

constexpr int64_t kFirstRoom = 256;  // new tokens the cache starts with room for; it grows when more come

// [B, T], right-padded with token 0.
at::Tensor padded_rows(const std::vector<std::span<const int32_t>>& rows) {
  size_t longest = 0;
  for (const auto& row : rows) longest = std::max(longest, row.size());
  at::Tensor tokens_BT = at::zeros({static_cast<int64_t>(rows.size()), static_cast<int64_t>(longest)}, at::kLong);
  auto out = tokens_BT.accessor<int64_t, 2>();
  for (size_t b = 0; b < rows.size(); ++b)
    for (size_t t = 0; t < rows[b].size(); ++t) out[static_cast<int64_t>(b)][static_cast<int64_t>(t)] = rows[b][t];
  return tokens_BT;
}

// The shared middle: `active` are the sequences in the cache's rows, `logits_BV` those of their last tokens.
void grow(Model& model, KvCache& cache, std::vector<size_t> active, at::Tensor logits_BV, int64_t max_new_tokens, const PickToken& pick,
          const TakeToken& take) {
  for (int64_t step = 0; step < max_new_tokens && !active.empty(); ++step) {
    logits_BV = logits_BV.to(at::kCPU, at::kFloat).contiguous();
    const size_t vocabulary = static_cast<size_t>(logits_BV.size(1));
    const float* logits = logits_BV.const_data_ptr<float>();
    std::vector<int64_t> staying_rows, next;
    std::vector<size_t> staying;
    at::Tensor picked_B = at::empty({static_cast<int64_t>(active.size())}, at::kInt);
    int32_t* picked = picked_B.data_ptr<int32_t>();
    for (size_t row = 0; row < active.size(); ++row) picked[row] = pick(active[row], step, {logits + row * vocabulary, vocabulary});
    model.groups().world->broadcast(picked_B, 0);  // ranks whose logits differ in their last bits go the same way
    for (size_t row = 0; row < active.size(); ++row) {
      const int32_t id = picked[row];
      if (!take(active[row], id)) continue;
      staying_rows.push_back(static_cast<int64_t>(row));
      staying.push_back(active[row]);
      next.push_back(id);
    }
    if (staying.empty() || step + 1 == max_new_tokens) return;
    if (staying.size() < active.size()) cache.select_rows(staying_rows);
    active = std::move(staying);
    cache.make_room(1 + *std::max_element(cache.lengths().begin(), cache.lengths().end()));
    const at::Tensor tokens_B1 = at::tensor(next, at::kLong).unsqueeze(1).to(model.options().device);
    logits_BV = model.forward(tokens_B1, cache);
  }
}

}  // namespace

void decode_loop(Model& model, const std::vector<std::vector<int32_t>>& prompts, int64_t max_new_tokens, const PickToken& pick,
                 const TakeToken& take) {
  if (prompts.empty() || max_new_tokens <= 0) return;
  const at::NoGradGuard no_gradients;
  std::vector<std::span<const int32_t>> rows(prompts.begin(), prompts.end());
  std::vector<int64_t> counts;
  std::vector<size_t> active;
  for (size_t i = 0; i < prompts.size(); ++i) {
    PONTE_ASSERT(!prompts[i].empty());
    counts.push_back(static_cast<int64_t>(prompts[i].size()));
    active.push_back(i);
  }
  const int64_t longest = *std::max_element(counts.begin(), counts.end());
  KvCache cache(model, static_cast<int64_t>(prompts.size()), longest + std::min(max_new_tokens, kFirstRoom));
  at::Tensor logits_BV = model.forward(padded_rows(rows).to(model.options().device), cache, counts);
  grow(model, cache, std::move(active), logits_BV, max_new_tokens, pick, take);
}

void continue_sequence(Model& model, KvCache& cache, std::span<const int32_t> new_tokens, int64_t max_new_tokens, const PickToken& pick,
                       const TakeToken& take) {
  PONTE_ASSERT(!new_tokens.empty());
  const at::NoGradGuard no_gradients;
  cache.make_room(cache.length(0) + static_cast<int64_t>(new_tokens.size()));
  const at::Tensor tokens_1T = padded_rows({new_tokens}).to(model.options().device);
  grow(model, cache, {0}, model.forward(tokens_1T, cache), max_new_tokens, pick, take);
}

}  // namespace ponte
