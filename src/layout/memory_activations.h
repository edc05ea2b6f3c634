// Activation memory as a tape: the steps of a forward pass in order, each with the bytes it keeps for backward and those alive only while it runs, forward
// and backward. Peaks follow from walking the tape there and back, so recompute, in-flight micro-batches and stages need no formulas of their own.
//
// What a step keeps is what the layer of that name saves (src/nn); tests/unit/layout/plan_measured_test.cpp holds the two against each other.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "layout/plan_layers.h"

namespace ponte {

// All in bytes. A tensor that several steps keep is counted at the first.
struct TapeStep {
  int64_t kept = 0;
  int64_t forward = 0;   // alive while it runs forward: what it keeps, its output, its workspace
  int64_t backward = 0;  // alive while it runs backward, what is kept left out: gradients in and out, workspace
};
using Tape = std::vector<TapeStep>;

int64_t kept_bytes(const Tape& tape);
// The most that is alive at once, from before the tape begins.
int64_t forward_peak(const Tape& tape);
int64_t backward_peak(const Tape& tape);

// One micro-batch on one rank.
struct ActivationSizes {
  int64_t sequences = 1;     // B
  int64_t length = 0;        // T: tokens of a sequence on this rank
  int64_t element = 2;       // bytes of an activation
  int64_t tensor = 1;        // ranks of the tensor group
  int64_t context = 1;       // ranks that share a sequence
  bool delta_by_heads = false; // gated delta nets trade tokens for heads among them (nn/gated_delta_context.h); else each runs its chunks
  bool sequence_parallel = false;
  double expert_rows = 0;    // rows the experts of this rank get
  int64_t expert_ranks = 1;  // ranks a token may be sent to
  int64_t tokens() const { return sequences * length; }
  int64_t residual_tokens() const { return sequence_parallel ? tokens() / tensor : tokens(); }
};

// What is computed again in backward (model.recompute_*).
struct Recompute {
  bool core_attention = false, mlp = false, moe = false, norms = false;  // selective
  enum class Full { none, uniform, block } full = Full::none;
  int64_t layers = 1;  // of a stretch (uniform), or how many (block)
};
// UserError for full recompute with a method or a number of layers there is not.
Recompute recompute_of(const ModelConfig& config);
// Lengths of the stretches that are computed again, from the first layer of a chunk on; the rest runs plainly. Uniform: all layers, in stretches of
// recompute_num_layers; block: the first recompute_num_layers, one by one; otherwise none.
std::vector<int64_t> recomputed_stretches(const Recompute& recompute, int64_t layers);

Tape layer_tape(const LocalLayer& layer, const ActivationSizes& sizes, const Recompute& recompute);
// Row look-up, and what a micro-batch brings: ids, labels, mask, rotary angles.
Tape embedding_tape(int64_t hidden, int64_t rotary_dims, const ActivationSizes& sizes);
// Final norm, output layer and loss. vocabulary: columns of this rank.
Tape head_tape(int64_t hidden, int64_t vocabulary, const ActivationSizes& sizes);
// One step in place of a tape: its input is kept, the rest computed again.
TapeStep recomputed(std::span<const Tape> tapes, int64_t input_bytes);

// The layers of one chunk with full recompute applied.
Tape chunk_tape(std::span<const Tape> layers, const Recompute& recompute, int64_t hidden, const ActivationSizes& sizes);

}  // namespace ponte
