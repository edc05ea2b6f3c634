// A few new tokens, one or several a row, on a CPU: every weight is read once, activations stay in fp32 buffers that live as long as the model, and nothing
// goes through the dispatcher. Same results as the general path up to rounding (bf16 models keep fp32 activations here).
#pragma once
#include "model/cached_pass.h"

namespace ponte {

bool can_decode(const Model::State& state, int64_t B, int64_t T);
// Rows whose count is below T append that many tokens; results of the rest mean nothing. Does not advance the cache. Hidden states are fp32 and of every
// token, logits of those in `wanted` (b * T + t).
CachedPass decode(const Model::State& state, const at::Tensor& tokens_BT, KvCache& cache, const CachedStep& step, std::span<const int64_t> wanted);
// The same of one prediction layer, whose cache has no other; hidden_SH: of the depth before, any type.
CachedPass decode(const Model::State& state, const PredictionLayer& layer, const at::Tensor& tokens_BT, const at::Tensor& hidden_SH, KvCache& cache,
                  const CachedStep& step, std::span<const int64_t> wanted);

}  // namespace ponte
