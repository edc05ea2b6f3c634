// Floating point operations of a model, summed over its rule table: two for each multiplication and addition of a forward pass, three times that with
// backward. What recompute repeats is not work of the model and not counted. Source of the terms: megatron/training/training.py
// (num_floating_point_operations); the log's TFLOP/s and `ponte plan` both come from here.
#pragma once
#include <cstdint>
#include <span>

#include "config/model_config.h"
#include "families/rule.h"

namespace ponte {

// Of one token, forward.
struct Flops {
  double matrix = 0;  // products with weights
  double core = 0;    // attention scores and their product with the values; the recurrence and convolution of a gated delta net
  double total() const { return matrix + core; }
};
inline Flops operator+(const Flops& a, const Flops& b) { return {a.matrix + b.matrix, a.core + b.core}; }
inline Flops operator*(double times, const Flops& f) { return {times * f.matrix, times * f.core}; }

// A token that passes a layer's weight of this shape: the whole one, or what a rank holds of it. An expert's weight: of a token routed to it. Word embeddings
// cost nothing, the output layer is its own rule; a tied head is counted by head_flops.
Flops forward_flops(const Rule& rule, const Shape& shape, const ModelConfig& config, int64_t seq_length);
// The output layer, tied or not, once for the next token and once for each further one that is predicted.
Flops head_flops(const ModelConfig& config);

// Of one token of a whole model, forward and backward. Causal attention over seq_length tokens: half of the keys, on average.
double training_flops_per_token(const ModelConfig& config, std::span<const Rule> rules, int64_t seq_length);

}  // namespace ponte
