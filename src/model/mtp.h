// Multi-token prediction: depth k = 1..D predicts the token k + 1 places on, from the hidden state of depth k - 1 (depth 0: the decoder's, normed) and the
// embedding of the token k places on; embedding and output layer are the model's own. Source: megatron/core/transformer/multi_token_prediction.py;
// DeepSeek-V3 report, section 2.2.
#pragma once
#include <vector>

#include "model/block.h"
#include "model/model.h"
#include "nn/unit.h"

namespace ponte {

struct PredictionLayer {
  RmsNorm embedding_norm, hidden_norm, final_norm;
  Linear eh_proj;  // [H, 2H] on [normed embedding; normed hidden]
  TensorRegion region;
  DecoderLayer layer;
  bool recompute = false;
  const Unit* unit = nullptr;
  // What the layer starts from.
  at::Tensor merge(const at::Tensor& embedded_SH, const at::Tensor& hidden_SH) const;
  // embedded_SH: of the tokens this depth reads; hidden_SH: of the depth before. The hidden state of this depth, normed.
  at::Tensor operator()(const at::Tensor& embedded_SH, const at::Tensor& hidden_SH, const Sequence& sequence) const;
};

std::vector<PredictionLayer> make_prediction_layers(const ModelConfig& config, Parameters& parameters, const LayerSeams& seams);

// Tokens, labels and mask of the batch read `depth` places on, within rows and documents; beyond their ends stand token 0, label 0 and mask 0.
Batch shifted(const Batch& batch, int64_t depth);

}  // namespace ponte
