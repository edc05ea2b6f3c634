// The parts of a forward pass over a cache, for those that need more of it than logits.
#pragma once
#include <span>
#include <vector>

#include "model/kv_cache.h"
#include "model/state.h"

namespace ponte {

// B rows of up to T new tokens, right-padded.
struct CachedStep {
  int64_t B, T;
  std::vector<int64_t> counts;  // tokens each row really appends
  Angles angles;                // [B*T, R]
};
// Positions go on from the cache. token_counts empty: T each. UserError when the cache lacks room.
CachedStep cached_step(const Model::State& state, const at::Tensor& tokens_BT, const KvCache& cache, std::span<const int64_t> token_counts);

// Each row's last new token, as b * T + t.
std::vector<int64_t> last_tokens(const CachedStep& step);

// Does not advance the cache.
at::Tensor run_layer(const DecoderLayer& layer, const at::Tensor& x_SH, int64_t index, KvCache& cache, const CachedStep& step);

struct CachedPass {
  at::Tensor hidden_SH;  // of every token, normed; the model's type, or fp32
  at::Tensor logits;     // fp32, as Model::forward gives them
};
// The whole model; advances the cache. Under InferenceMode.
CachedPass cached_pass(const Model::State& state, const at::Tensor& tokens_BT, KvCache& cache, std::span<const int64_t> token_counts, Logits wanted);

}  // namespace ponte
