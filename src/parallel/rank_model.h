// What one rank holds of the model: its pipeline stage, or several where the schedule interleaves chunks of layers. To whoever trains, saves and loads it
// is one model: parameters of all chunks, gradients, reports.
#pragma once
#include <memory>
#include <span>
#include <vector>

#include "model/model.h"
#include "nn/router.h"

namespace ponte {

class RankModel {
 public:
  // Throws as Model's constructor does.
  RankModel(const ModelConfig& config, const Groups& groups = single_groups(), const ModelOptions& options = {});

  const ModelConfig& config() const { return chunks_[0]->config(); }
  const ModelOptions& options() const { return chunks_[0]->options(); }
  const Groups& groups() const { return chunks_[0]->groups(); }
  const RuleTable& rules() const { return chunks_[0]->rules(); }
  // In the order of a forward pass.
  std::span<Model* const> chunks() const { return pointers_; }
  // Of all chunks, in that order.
  std::span<Parameter* const> parameters() { return parameters_; }
  // The model itself, where this rank holds all layers.
  Model& whole();

  void initialize(uint64_t seed);
  void load(const WeightSource& source);
  void zero_gradients();
  void update_expert_biases();

  // What the step's micro-batches saw of experts and predictions, over all replicas and all stages, the same on every rank. Once per step, on every rank,
  // after the last micro-batch; the accessors give the last one.
  void reduce_reports();
  std::span<const ExpertLoad> expert_loads() const { return loads_; }
  std::span<const PredictionLoss> prediction_losses() const { return prediction_losses_; }

  int64_t parameter_count() const { return chunks_[0]->parameter_count(); }
  double training_flops_per_token(int64_t seq_length) const { return chunks_[0]->training_flops_per_token(seq_length); }

 private:
  std::vector<std::unique_ptr<Model>> chunks_;
  std::vector<Model*> pointers_;
  std::vector<Parameter*> parameters_;
  std::vector<ExpertLoad> loads_;                  // per layer, prediction layers last; empty without sparse layers
  std::vector<PredictionLoss> prediction_losses_;  // per depth
};

}  // namespace ponte
