// One pre-norm decoder layer: x + mixer(norm(x)), then x + mlp(norm(x)).
#pragma once
#include <string>
#include <variant>

#include "nn/attention.h"
#include "nn/gated_delta_net.h"
#include "nn/mlp.h"
#include "nn/moe.h"
#include "nn/parameters.h"

namespace ponte {

struct FeedForward : std::variant<GatedMlp, MoeMlp> {
  using variant::variant;
  at::Tensor operator()(const at::Tensor& x_SH, RoutingReport* report) const;
};

// Full or linear attention.
struct SequenceMixer : std::variant<SelfAttention, GatedDeltaNet> {
  using variant::variant;
  at::Tensor project(const at::Tensor& x_SH) const;
  at::Tensor core(const at::Tensor& projected_SW, const Sequence& sequence) const;
  at::Tensor finish(const at::Tensor& core_SV) const;
};

struct DecoderLayer {
  RmsNorm mixer_norm, mlp_norm;
  SequenceMixer mixer;
  FeedForward mlp;
  // Selective recompute: run these parts again in backward instead of keeping what they need.
  bool recompute_core_attention = false, recompute_mlp = false, recompute_norms = false;

  at::Tensor operator()(const at::Tensor& x_SH, const Sequence& sequence) const;
};

// What of a layer may be spread over ranks.
struct LayerSeams {
  TensorRegion region;
  ExpertGroups experts;
  std::shared_ptr<const AttentionCore> attention;
};

// prefix: "decoder.layers.3."
DecoderLayer make_decoder_layer(const ModelConfig& config, int64_t layer, const std::string& prefix, Parameters& parameters, const LayerSeams& seams);

}  // namespace ponte
