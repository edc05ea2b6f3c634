// Prefill, then one token per sequence and step, or as many as were guessed right.
#include "generate/decode_loop.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>

#include "base/errors.h"
#include "model/speculation.h"

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

// Row `row` of [rows, V] logits.
struct LogitRows {
  at::Tensor logits_RV;
  explicit LogitRows(const at::Tensor& logits) : logits_RV(logits.to(at::kCPU, at::kFloat).contiguous()) {}
  std::span<const float> operator[](int64_t row) const {
    const auto V = static_cast<size_t>(logits_RV.size(-1));
    return {logits_RV.const_data_ptr<float>() + static_cast<size_t>(row) * V, V};
  }
};

// The shared middle: `active` are the sequences in the cache's rows, `logits_BV` those of their last tokens.
void grow(Model& model, KvCache& cache, std::vector<size_t> active, at::Tensor logits_BV, int64_t max_new_tokens, const PickToken& pick,
          const TakeToken& take) {
  for (int64_t step = 0; step < max_new_tokens && !active.empty(); ++step) {
    const LogitRows logits(logits_BV);
    std::vector<int64_t> staying_rows, next;
    std::vector<size_t> staying;
    at::Tensor picked_B = at::empty({static_cast<int64_t>(active.size())}, at::kInt);
    int32_t* picked = picked_B.data_ptr<int32_t>();
    for (size_t row = 0; row < active.size(); ++row) picked[row] = pick(active[row], step, logits[static_cast<int64_t>(row)]);
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
    const at::Tensor tokens_B1 = at::tensor(next, at::kLong).unsqueeze(1);
    logits_BV = model.forward(tokens_B1, cache);
  }
}

struct Prompts {
  at::Tensor tokens_BT;  // right-padded
  std::vector<int64_t> counts;
  int64_t longest = 0;
};
Prompts prompts_of(const std::vector<std::vector<int32_t>>& prompts) {
  Prompts out;
  for (const auto& prompt : prompts) {
    PONTE_ASSERT(!prompt.empty());
    out.counts.push_back(static_cast<int64_t>(prompt.size()));
  }
  out.longest = *std::max_element(out.counts.begin(), out.counts.end());
  out.tokens_BT = padded_rows({prompts.begin(), prompts.end()});
  return out;
}

// A sequence among those that go on.
struct Going {
  size_t sequence;
  int64_t taken;  // new tokens so far, `next` included
  int64_t next;   // the last of them, which the model has not read
};

class Speculating {
 public:
  Speculating(Model& model, const std::vector<std::vector<int32_t>>& prompts, int64_t max_new_tokens, int64_t guesses, const PickToken& pick,
              const TakeToken& take)
      : most_(max_new_tokens), guesses_(guesses), pick_(pick), take_(take), prompts_(prompts_of(prompts)),
        speculation_(model, static_cast<int64_t>(prompts.size()), prompts_.longest + std::min(max_new_tokens, kFirstRoom) + guesses, guesses) {}

  Guesses run() {
    const LogitRows logits(speculation_.read(prompts_.tokens_BT, prompts_.counts));
    std::vector<Speculation::Kept> staying;
    for (size_t i = 0; i < prompts_.counts.size(); ++i) {
      Going row{i, 0, 0};
      if (!take_next(row, logits[static_cast<int64_t>(i)])) continue;
      staying.push_back({static_cast<int64_t>(i), 0});
      going_.push_back(row);
    }
    speculation_.keep(staying);
    while (!going_.empty()) round();
    return counted_;
  }

 private:
  // Whether the row goes on.
  bool take_next(Going& row, std::span<const float> logits) {
    const int32_t id = pick_(row.sequence, row.taken, logits);
    row.next = id;
    return take_(row.sequence, id) && ++row.taken < most_;
  }

  void round() {
    int64_t room = 0;
    for (const Going& row : going_) room = std::max(room, most_ - row.taken);
    const int64_t guesses = std::min(guesses_, room - 1);
    std::vector<int64_t> tokens;
    for (const Going& row : going_) tokens.push_back(row.next);
    std::vector<std::vector<int64_t>> guessed(going_.size());
    for (int64_t k = 0; k < guesses; ++k) {
      const LogitRows logits(speculation_.guess(tokens));
      for (size_t b = 0; b < going_.size(); ++b)
        guessed[b].push_back(tokens[b] = pick_(going_[b].sequence, going_[b].taken + k, logits[static_cast<int64_t>(b)]));
    }
    const LogitRows logits(speculation_.check(tokens));
    std::vector<Speculation::Kept> staying;
    std::vector<Going> going;
    for (size_t b = 0; b < going_.size(); ++b) {
      Going row = going_[b];
      int64_t kept = 0;
      bool goes_on = true;
      do goes_on = take_next(row, logits[static_cast<int64_t>(b) * (guesses + 1) + kept++]);
      while (goes_on && kept <= guesses && row.next == guessed[b][static_cast<size_t>(kept) - 1]);
      counted_.made += guesses;
      counted_.kept += kept - 1;
      if (!goes_on) continue;
      staying.push_back({static_cast<int64_t>(b), kept});
      going.push_back(row);
    }
    speculation_.keep(staying);
    going_ = std::move(going);
  }

  const int64_t most_, guesses_;
  const PickToken& pick_;
  const TakeToken& take_;
  const Prompts prompts_;
  Speculation speculation_;
  std::vector<Going> going_;  // in the order of the speculation's rows
  Guesses counted_;
};

}  // namespace

void decode_loop(Model& model, const std::vector<std::vector<int32_t>>& prompts, int64_t max_new_tokens, const PickToken& pick,
                 const TakeToken& take) {
  if (prompts.empty() || max_new_tokens <= 0) return;
  const at::NoGradGuard no_gradients;
  const Prompts rows = prompts_of(prompts);
  std::vector<size_t> active(prompts.size());
  std::iota(active.begin(), active.end(), size_t{0});
  KvCache cache(model, static_cast<int64_t>(prompts.size()), rows.longest + std::min(max_new_tokens, kFirstRoom));
  grow(model, cache, std::move(active), model.forward(rows.tokens_BT, cache, rows.counts), max_new_tokens, pick, take);
}

Guesses speculative_loop(Model& model, const std::vector<std::vector<int32_t>>& prompts, int64_t max_new_tokens, int64_t guesses, const PickToken& pick,
                         const TakeToken& take) {
  if (prompts.empty() || max_new_tokens <= 0) return {};
  const at::NoGradGuard no_gradients;
  return Speculating(model, prompts, max_new_tokens, guesses, pick, take).run();
}

void continue_sequence(Model& model, KvCache& cache, std::span<const int32_t> new_tokens, int64_t max_new_tokens, const PickToken& pick,
                       const TakeToken& take) {
  PONTE_ASSERT(!new_tokens.empty());
  const at::NoGradGuard no_gradients;
  cache.make_room(cache.length(0) + static_cast<int64_t>(new_tokens.size()));
  const at::Tensor tokens_1T = padded_rows({new_tokens});
  grow(model, cache, {0}, model.forward(tokens_1T, cache), max_new_tokens, pick, take);
}

}  // namespace ponte
