// A gated delta net over rows whose tokens lie on several context-parallel ranks (layout/context_split.h): by heads, or chunk by chunk. Both run each
// token once.
#pragma once
#include "nn/gated_delta_net.h"

namespace ponte {

// Tokens are traded for heads (as Jacobs et al. 2023, DeepSpeed-Ulysses): a rank runs whole rows of its share of the key heads. UserError where key heads do
// not divide over the ranks.
at::Tensor core_by_heads(const GatedDeltaNet& layer, const at::Tensor& projected_SW, const Sequence& sequence);

// The rule is affine in the state: over a chunk of tokens S' = M S + C, and each output is a part of its own plus a part linear in S. Every rank runs its two
// chunks of a row from zero and from the identity at once, M and C of all chunks are gathered, and each chunk's first state follows from those before it
// (prefix scan; Blelloch 1990). The convolution takes its first taps from the chunk before. UserError where a chunk is shorter than those.
at::Tensor core_by_scan(const GatedDeltaNet& layer, const at::Tensor& projected_SW, const Sequence& sequence);

}  // namespace ponte
