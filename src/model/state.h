// What a Model is made of; shared by the files that implement it.
#pragma once
#include <memory>
#include <vector>

#include "families/rule.h"
#include "model/decoder.h"
#include "model/model.h"
#include "nn/embedding.h"
#include "nn/loss_head.h"

namespace ponte {

struct Model::State {
  ModelConfig config;
  Groups groups;
  ModelOptions options;
  TensorParallel tensor_parallel;
  std::unique_ptr<RuleTable> rules;
  std::unique_ptr<Parameters> parameters;
  std::vector<Parameter*> in_order;

  RotaryEmbedding rotary;
  Embedding embedding;
  Decoder decoder;
  RmsNorm final_norm;
  LossHead loss_head;

  State(const ModelConfig& config, const Groups& groups, const ModelOptions& options);
  // Positions and documents of a batch; checks shapes.
  Sequence sequence_of(const Batch& batch) const;
  // Token ids to the normed residual stream.
  at::Tensor hidden(const Batch& batch) const;
};

// UserError naming the first id outside [0, vocabulary). CPU tensors only; on a device this would stall the stream.
void check_token_ids(const at::Tensor& ids, int64_t vocabulary);

}  // namespace ponte
