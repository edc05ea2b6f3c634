// Self-attention of one layer: packed projection, head norms and rotation, the mixer core, output projection. The core is a seam: what stands behind
// it may be replaced (ring, all-to-all) without this layer knowing.
#pragma once
#include <memory>

#include "comm/region.h"
#include "config/model_config.h"
#include "kernels/gate_heads.h"
#include "kernels/split_qkv.h"
#include "nn/attention_core.h"
#include "nn/linear.h"
#include "nn/norm.h"
#include "nn/rotary.h"

namespace ponte {

struct RoutingReport;  // nn/router.h

// What every layer of a forward pass needs to know of the batch.
struct Sequence {
  int64_t B, T;
  Angles angles;              // [B*T, R]
  at::Tensor document_starts_BT;  // places in the whole row, which context parallelism may have spread; undefined: one document per row
  std::shared_ptr<RoutingReport> routing;  // sparse layers write theirs; null: nobody asks
};

// Heads this rank holds, read off the shard of the packed projection.
HeadLayout head_layout(const Parameter& packed_projection, const ModelConfig& config);

struct SelfAttention {
  Linear linear_qkv, linear_proj;
  Parameter *q_layernorm = nullptr, *k_layernorm = nullptr;  // of each head
  std::optional<RmsNorm> query_norm, key_norm;               // of all heads at once (OLMoE), whole on this rank
  HeadLayout layout;
  NormOptions norm;
  double scale;
  std::optional<int64_t> window;
  TensorRegion region;
  std::shared_ptr<const AttentionCore> attend = local_attention();

  // Normed x_SH -> the packed projection, inside the region; query_norm and key_norm are part of it.
  at::Tensor project(const at::Tensor& x_SH) const;
  // Head norms, rotation, the mixer core and the output gate: qkv_SW -> [S, heads * head_dim]. What selective recompute repeats.
  at::Tensor core(const at::Tensor& qkv_SW, const Sequence& sequence) const;
  // Out of the region: the layer's contribution to the residual stream.
  at::Tensor finish(const at::Tensor& core_SV) const;
};

}  // namespace ponte
