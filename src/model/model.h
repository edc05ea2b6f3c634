// A decoder-only language model built from a ModelConfig: parameters under Megatron's live names, a training loss and a cached forward pass.
// The caller owns the loop: for each micro-batch forward_loss(...).scaled.backward(), then reduce_gradients(), then the optimizer reads
// Parameter::main_grad.
#pragma once
#include <ATen/core/Tensor.h>

#include <deque>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "comm/group.h"
#include "config/model_config.h"
#include "layout/pipeline_stages.h"
#include "nn/parameter.h"
#include "nn/unit.h"

namespace ponte {

class KvCache;
struct ExpertLoad;    // nn/router.h
class WeightSource;   // convert/
struct RuleTable;     // families/

// One micro-batch. B rows, T tokens. In host memory, whatever the model's device: what must be known of it (lengths, documents, sums of the mask) is
// read there, and the device is never waited for. Pinned memory is copied beside the device's work.
struct Batch {
  at::Tensor tokens_BT;          // int64
  at::Tensor labels_BT;          // int64; the token each position must predict (any valid id where the mask is 0)
  at::Tensor loss_mask_BT;       // fp32; weight of each position's loss; undefined: all ones
  at::Tensor position_ids_BT;    // int64; undefined: 0..T-1 in every row
  // int64; index in the row of the first token of each token's document; attention never crosses it. Undefined: one document per row.
  at::Tensor document_starts_BT;
  // bool; true where a token is padding: no expert sees it and no balance counts it. Undefined: none is.
  at::Tensor padding_BT;
};

struct LossSum {
  at::Tensor sum;             // scalar, detached (fp32; fp64 models fp64): sum over tokens of mask * cross entropy
  at::Tensor scaled;          // scalar with autograd: sum * gradient_scale; call backward() on exactly this, once
  double valid_tokens = 0;    // sum of the mask
  at::Tensor token_losses_BT; // fp32, detached, unmasked: for reports that name samples
};

// What a multi-token prediction layer lost on the tokens it had to predict: a row's or document's last ones are beyond it.
struct PredictionLoss {
  double sum = 0, tokens = 0;
};

// later: parameters get memory from parallel/data_parallel.h, which may give each rank its share alone.
enum class Allocation { now, later };

struct ModelOptions {
  at::Device device = at::kCPU;
  // Element type of the parameters; activations follow. fp64 is for tests.
  at::ScalarType dtype = at::kFloat;
  Allocation parameters = Allocation::now;
};

// What a pipeline stage hands on: its hidden states, or, from the last stage, the loss.
struct StageOutput {
  at::Tensor hidden_SH;  // with autograd; undefined from the last stage
  LossSum loss;          // of this rank's tokens; undefined from other stages
};

// The stage of this rank's chunk; the whole model when the pipeline group has one rank, whatever the configuration says.
Stage stage_of(const ModelConfig& config, const Groups& groups, int64_t chunk = 0);

enum class Logits { last_token, every_token };

class Model {
 public:
  // Parameters are allocated and hold zeros until initialize() or load(). Throws UserError when the configuration cannot be built or does
  // not divide over the groups. `chunk`: which of this rank's pipeline stages (interleaved schedules have several, each a Model of its own).
  Model(const ModelConfig& config, const Groups& groups = single_groups(), const ModelOptions& options = {}, int64_t chunk = 0);
  ~Model();
  Model(Model&&) noexcept;

  const ModelConfig& config() const;
  const ModelOptions& options() const;
  const Groups& groups() const;
  const RuleTable& rules() const;   // of the whole model
  const Stage& stage() const;

  // In a fixed order: embedding, layers from first to last, final norm, output layer. Pointers stay valid for the model's life.
  std::span<Parameter* const> parameters();
  Parameter* find_parameter(const std::string& name);  // nullptr when there is none

  // Random weights as Megatron's: normal(0, init_method_std), residual projections scaled by 1/sqrt(2 layers), norms one, biases zero. Each
  // tensor's stream depends on (seed, name) alone, so the weights do not depend on the layout.
  void initialize(uint64_t seed);
  // Every parameter from an HF folder or a Megatron checkpoint; throws UserError naming what is missing or misshapen.
  void load(const WeightSource& source);

  // Allocates main_grad on first use; then fills with zeros. Once per step, before the first micro-batch.
  void zero_gradients();
  // Completes the kept gradients over the ranks that share this replica's model: tensor-parallel ranks, and the two stages that hold tied embeddings.
  // Once per step, after the last micro-batch's backward; where there are replicas, parallel/data_parallel.h sums over them and then calls this.
  void reduce_gradients();

  // What is used together, in the order of parameters(); parallel/data_parallel.h keeps them where replicas share parameters or gradients out.
  std::deque<Unit>& units();
  // Before the last backward pass of a step; without it everything happens after that.
  void last_backward();
  // After each micro-batch's backward pass.
  void end_backward();

  // gradient_scale: the factor of this loss in the step's objective: loss scale / valid tokens of the whole step. Gradients are *added* to
  // main_grad by LossSum::scaled.backward(). Under at::NoGradGuard only the loss is computed.
  LossSum forward_loss(const Batch& batch, double gradient_scale = 1.0);
  // One stage of the same. input_SH: what the stage before handed on (any but the first); the batch is that of every stage, its rows whole on every
  // context-parallel rank, which takes its own tokens of them.
  StageOutput forward_stage(const Batch& batch, const at::Tensor& input_SH, double gradient_scale = 1.0);
  // Rows and columns of what stages hand on for this batch on this rank.
  std::vector<int64_t> activation_shape(const Batch& batch) const;

  // How each sparse layer spread the tokens of the micro-batches since zero_gradients() (one entry per layer, a dense layer's tokens_E undefined; the
  // losses are means over those tokens). Forward passes without autograd leave it alone.
  std::span<const ExpertLoad> expert_loads() const;
  // Adds up expert_loads over the replicas, and prediction_losses over all ranks that have other tokens. Once per step, on every rank, after the last
  // micro-batch.
  void reduce_expert_loads();
  // Per depth of multi-token prediction, of the micro-batches since zero_gradients() that were run with autograd; without it those layers do not run.
  std::span<const PredictionLoss> prediction_losses() const;
  // Moves the routers' balancing biases by this step's loads, where the model has them. Once per step, after the optimizer.
  void update_expert_biases();

  // Generation: appends token_counts[b] tokens of row b to the cache (its position there continues; tokens_BT is int64 and right-padded;
  // an empty token_counts means T each). Returns fp32 logits [B, vocab_size] of each row's last appended token, or [B, T, vocab_size].
  at::Tensor forward(const at::Tensor& tokens_BT, KvCache& cache, std::span<const int64_t> token_counts = {}, Logits wanted = Logits::last_token);
  // Without a cache: fp32 logits [B, T, vocab_size] of every position, no autograd.
  at::Tensor logits(const Batch& batch);

  // Where a NaN or an infinity first appears in the forward pass of a batch: "embedding.word_embeddings", "decoder.layers.3", "decoder.final_layernorm",
  // or "output_layer" when everything up to it is finite.
  std::string first_non_finite(const Batch& batch);

  // What the trainer's reports need: parameters of the whole model, and floating point operations of one token's forward and backward.
  int64_t parameter_count() const;
  double training_flops_per_token(int64_t seq_length) const;

 struct State;  // model/state.h; for the files of this folder

 private:
  friend class KvCache;
  friend class Speculation;
  std::unique_ptr<State> state_;
};

}  // namespace ponte
