// What a Model is made of; shared by the files that implement it.
#pragma once
#include <deque>
#include <memory>
#include <vector>

#include "families/rule.h"
#include "model/decoder.h"
#include "model/model.h"
#include "model/mtp.h"
#include "nn/embedding.h"
#include "nn/loss_head.h"

namespace ponte {

struct Model::State {
  ModelConfig config;
  Groups groups;
  ModelOptions options;
  TensorParallel tensor_parallel;
  Stage stage;
  std::unique_ptr<RuleTable> rules;
  std::unique_ptr<Parameters> parameters;
  std::vector<Parameter*> in_order;
  std::deque<Unit> units;  // word embeddings, layers, prediction layers, final norm and output layer; those this stage has
  const Unit* embedding_unit = nullptr;
  const Unit* head_unit = nullptr;

  RotaryEmbedding rotary;
  Embedding embedding;
  Decoder decoder;
  RmsNorm final_norm;
  LossHead loss_head;
  std::vector<PredictionLayer> prediction;
  std::vector<at::Tensor> unread_prediction_sums;  // fp64, per depth: of losses, not yet in prediction_losses
  std::vector<PredictionLoss> prediction_losses;  // per depth, of the step's micro-batches so far
  std::vector<ExpertLoad> loads;  // per layer, of the step's micro-batches so far; empty without sparse layers

  std::vector<ExpertLoad> earlier;  // as loads, of all replicas; only where the balancing loss counts a whole step

  State(const ModelConfig& config, const Groups& groups, const ModelOptions& options, const Stage& stage);
  // This rank's tokens of every row; the batch itself without context parallelism.
  Batch own_tokens(const Batch& batch) const;
  // Sorts the parameters into units, and tells the layers theirs.
  void make_units();
  at::Tensor embedded(const at::Tensor& ids_S) const;
  TokenLosses lost(const at::Tensor& hidden_SH, const at::Tensor& labels_S, const at::Tensor& weight_S) const;
  // Positions and documents of a batch; checks shapes.
  Sequence sequence_of(const Batch& batch) const;
  // This stage's part of the way from token ids to the normed residual stream, over this rank's tokens. input_SH: undefined for a first stage. routing: where
  // sparse layers report; null: nowhere.
  at::Tensor hidden(const Batch& own, const at::Tensor& input_SH = {}, std::shared_ptr<RoutingReport> routing = nullptr) const;
  // A report for one (whole) micro-batch, its losses standing in the objective with `scale`; null without sparse layers.
  std::shared_ptr<RoutingReport> routing_report(const Batch& batch, double scale) const;
  // Adds it to what the step has seen.
  void add_report(const RoutingReport& report);
  void read_prediction_sums();
  void reduce_prediction_losses();
  // Runs the prediction layers on the decoder's normed hidden states of the whole batch's own tokens; adds their losses to the objective, which it returns.
  at::Tensor add_prediction_losses(const Batch& batch, at::Tensor hidden_SH, std::shared_ptr<RoutingReport> routing, double gradient_scale,
                                   at::Tensor objective);
};

// UserError naming the first id outside [0, vocabulary). CPU tensors only; on a device this would stall the stream.
void check_token_ids(const at::Tensor& ids, int64_t vocabulary);

}  // namespace ponte
