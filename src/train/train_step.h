// One optimizer step, and one evaluation.
#pragma once
#include <vector>

#include "data/batch_loader.h"
#include "train/run.h"

namespace ponte {

struct StepResult {
  double loss = 0;          // mean over the valid tokens of the step, whatever the micro-batching
  double grad_norm = 0;     // before clipping
  int64_t zeros = 0;        // zero gradients, when optimizer.log_num_zeros_in_grad
  double parameter_norm = 0;  // when logger.log_params_norm
  bool skipped = false;     // the gradients overflowed under loss scaling: no update was made
};

// Forward and backward over this replica's micro-batches, sums over the replicas, gradient norm, clipping, update: the same result on every
// rank. UserError naming step, samples and parameters when the loss or
// the gradients are not finite (train.check_for_nan_in_loss).
StepResult train_step(Run& run, const std::vector<MicroBatch>& micro_batches);

// Mean loss over eval_iters batches of the validation split, from the sample where the last evaluation stopped.
double evaluate(Run& run, BatchLoader& loader);

}  // namespace ponte
