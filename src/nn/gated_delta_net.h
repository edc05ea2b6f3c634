// Linear attention of one layer (Qwen3-Next): packed projection, causal convolution, gated delta rule, gated norm, output projection. Source:
// transformers' Qwen3NextGatedDeltaNet; parts and their order as in Megatron's gated_delta_net.
#pragma once
#include "comm/region.h"
#include "config/model_config.h"
#include "kernels/causal_conv1d.h"
#include "kernels/gated_delta.h"
#include "kernels/gated_rms_norm.h"
#include "nn/linear.h"

namespace ponte {

struct Sequence;  // nn/attention.h

// Heads this rank holds. A projected row is [queries, keys, values, z, beta, alpha], each part head by head.
struct GatedDeltaLayout {
  int64_t key_heads, value_heads, key_dim, value_dim;
  int64_t value_width() const { return value_heads * value_dim; }
  int64_t channels() const { return 2 * key_heads * key_dim + value_width(); }  // of the convolution
  int64_t width() const { return channels() + value_width() + 2 * value_heads; }
};

// Some of a layer's key heads, with the value heads that share them.
struct KeyHeads {
  int64_t first, count;
};

// How a row that is spread over context-parallel ranks is run (nn/gated_delta_context.h).
enum class RowsOver { heads, chunks };

// What a sequence leaves behind for its next token, fp32 (fp64 in fp64 models).
struct GatedDeltaMemory {
  at::Tensor history_BHC;  // the last W - 1 inputs of the convolution
  at::Tensor state_BNDV;
};

struct GatedDeltaNet {
  Linear in_proj, out_proj;
  Parameter *conv1d = nullptr, *A_log = nullptr, *dt_bias = nullptr, *out_norm = nullptr;
  GatedDeltaLayout layout;
  NormOptions norm;
  TensorRegion region;
  std::shared_ptr<Group> context = single_group();  // the ranks a row is spread over
  RowsOver spread = RowsOver::chunks;

  at::Tensor project(const at::Tensor& x_SH) const;                                   // into the region: [S, layout.width()]
  at::Tensor core(const at::Tensor& projected_SW, const Sequence& sequence) const;    // [S, layout.value_width()]
  at::Tensor finish(const at::Tensor& core_SV) const;                                 // out of the region: [S, H]
  // The core of whole rows for some heads: their columns of the projected rows (gated_delta_parts.h: columns_of) -> their values.
  at::Tensor core_of_heads(const at::Tensor& projected_SW, const Sequence& sequence, KeyHeads heads) const;

  // One row of `memory`: tokens that go on from it (from nothing when `fresh`), without autograd. Brings the row up to date.
  enum class Start { fresh, continued };
  at::Tensor core_from(const at::Tensor& projected_TW, GatedDeltaMemory& memory, int64_t row, Start start) const;
};

// Room for `rows` sequences; contents undefined.
GatedDeltaMemory make_memory(const GatedDeltaNet& layer, int64_t rows);

}  // namespace ponte
