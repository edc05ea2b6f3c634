// Picks the next token of one sequence from its logits: the largest, or a draw after temperature, top-k, top-p and min-p, applied in that order
// and with the meaning they have in transformers (TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper, MinPLogitsWarper).
#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace ponte {

struct SamplingOptions {
  double temperature = 0.0;  // 0: the most likely token, always
  int64_t top_k = 0;         // keep the k most likely tokens (ties of the k-th too); 0: all
  double top_p = 1.0;        // keep the fewest most likely tokens whose probabilities sum to at least this
  double min_p = 0.0;        // keep tokens at least this likely relative to the most likely one
  uint64_t seed = 0;
};

// UserError naming the field that is out of range.
void check_sampling(const SamplingOptions& options);

struct Candidate {
  int32_t id;
  float logit;         // divided by the temperature
  double probability;  // among the candidates kept
};

// The tokens a draw may give, in the order of their ids, so that a rounding difference in the logits moves a draw's outcome as little as it can.
// Not for greedy options.
std::vector<Candidate> candidates(std::span<const float> logits, const SamplingOptions& options);

// Lowest id of the largest logit. InternalError when every logit is NaN.
int32_t most_likely(std::span<const float> logits);

// The token at `step` (0, 1, ...) of sequence `sequence`. A draw depends only on the logits, the options, the sequence's number and the step, not on
// what else is in the batch.
int32_t next_token(std::span<const float> logits, const SamplingOptions& options, uint64_t sequence, uint64_t step);

}  // namespace ponte
