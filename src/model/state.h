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
  std::vector<ExpertLoad> loads;  // per layer, of the step's micro-batches so far; empty without sparse layers

  State(const ModelConfig& config, const Groups& groups, const ModelOptions& options);
  // Positions and documents of a batch; checks shapes.
  Sequence sequence_of(const Batch& batch) const;
  // Token ids to the normed residual stream. routing: where sparse layers report; null: nowhere.
  at::Tensor hidden(const Batch& batch, std::shared_ptr<RoutingReport> routing = nullptr) const;
  // A report for one micro-batch, its losses standing in the objective with `scale`; null without sparse layers.
  std::shared_ptr<RoutingReport> routing_report(const Batch& batch, double scale) const;
};

// UserError naming the first id outside [0, vocabulary). CPU tensors only; on a device this would stall the stream.
void check_token_ids(const at::Tensor& ids, int64_t vocabulary);

}  // namespace ponte
