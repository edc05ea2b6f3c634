// The token loop of generation: prompts of different lengths go through the model in one padded pass, then every sequence grows by one token a
// step over the shared cache; sequences that are done leave the batch.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "model/kv_cache.h"
#include "model/model.h"

namespace ponte {

// Called once per sequence and step with the logits ([vocab_size], fp32, valid during the call) of its last token; returns the token to append.
using PickToken = std::function<int32_t(size_t sequence, int64_t step, std::span<const float> logits)>;
// Called with each appended token; returns whether the sequence goes on.
using TakeToken = std::function<bool(size_t sequence, int32_t id)>;

// Sequences are numbered as in `prompts`, each of at least one token. At most `max_new_tokens` are appended to each.
void decode_loop(Model& model, const std::vector<std::vector<int32_t>>& prompts, int64_t max_new_tokens, const PickToken& pick, const TakeToken& take);

struct Guesses {
  int64_t made = 0, kept = 0;
};
// The same text, several tokens a pass where the model's prediction layers guess them (model/speculation.h): a guess is kept when `pick` gives the same
// token from the model's own logits. `guesses` (at least one): in a pass. `pick` is also asked for the guesses, so that draws of both agree often.
Guesses speculative_loop(Model& model, const std::vector<std::vector<int32_t>>& prompts, int64_t max_new_tokens, int64_t guesses, const PickToken& pick,
                         const TakeToken& take);

// One sequence over a cache the caller keeps, whose row 0 already holds the beginning of the conversation: `new_tokens` (at least one) are appended
// first; the cache makes room as needed. The last token taken is not in the cache afterwards.
void continue_sequence(Model& model, KvCache& cache, std::span<const int32_t> new_tokens, int64_t max_new_tokens, const PickToken& pick,
                       const TakeToken& take);

}  // namespace ponte
