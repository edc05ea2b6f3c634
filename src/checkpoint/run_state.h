// Where a run stands, besides its tensors: what makes a resumed run the same run.
#pragma once
#include <cstdint>
#include <string>

#include "optim/loss_scaler.h"

namespace ponte {

struct TrainState {  // the fields of Megatron Bridge's train_state.pt
  int64_t step = 0;
  int64_t consumed_train_samples = 0, skipped_train_samples = 0, consumed_valid_samples = 0;
  double floating_point_operations_so_far = 0;
};

// Which data the positions above count in.
struct DataRecord {
  std::string train_fingerprint, valid_fingerprint;
  int64_t requested_train_samples = 0;  // Megatron's order depends on it
  std::string order;
};

struct BestValidation {
  int64_t iteration = -1;  // -1: none yet
  double loss = 0;
};

struct RunState {
  TrainState train;
  int64_t schedule_steps = 0;   // samples the learning-rate schedule has seen; skipped steps do not count
  int64_t optimizer_steps = 0;
  LossScaler::State loss_scaler;
  DataRecord data;
  BestValidation best;
};

}  // namespace ponte
