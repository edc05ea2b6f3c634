// The micro-batches of a step through the stages of a pipeline, or through one whole model: the same call for both. layout/pipeline_schedule.h says in
// which order a rank works; here its results travel.
#pragma once
#include <functional>
#include <span>

#include "comm/group.h"
#include "model/model.h"

namespace ponte {

struct StepLoss {
  double sum = 0;           // of all valid tokens of the step, over all replicas; the same on every rank
  double valid_tokens = 0;  // of the step, over all replicas
};

struct StepOptions {
  double loss_scale = 1;
  // Called on ranks of the last stage after each forward pass, before any backward pass of that micro-batch.
  std::function<void(size_t micro_batch, const LossSum& loss)> on_loss;
};

// chunks: this rank's stages in order (one without interleaving). batches: this replica's micro-batches, the same on every rank of the replica, as many on
// every replica. With autograd: forward and backward passes, every token weighing loss_scale / valid tokens of the step; gradients are added to main_grad and
// still to be completed (DataParallel::reduce_gradients). Under at::NoGradGuard: the loss alone.
StepLoss run_micro_batches(std::span<Model* const> chunks, std::span<const Batch> batches, const StepOptions& options = {});

}  // namespace ponte
