// One new token for each of a few rows, on a CPU: every weight is read once, activations stay in fp32 buffers that live as long as the model, and nothing
// goes through the dispatcher. Same results as the general path up to rounding (bf16 models keep fp32 activations here).
#pragma once
#include "model/kv_cache.h"
#include "model/state.h"

namespace ponte {

bool can_decode(const Model::State& state, int64_t B, int64_t T);
// tokens_B1; rows whose count is 0 (finished ones) append nothing and their logits mean nothing. Does not advance the cache. Returns fp32 logits
// [B, vocab_size].
at::Tensor decode(const Model::State& state, const at::Tensor& tokens_B1, KvCache& cache, const std::vector<int64_t>& counts, const Angles& angles);

}  // namespace ponte
