// Sequences of a step: the same throughout, or a ramp by how many have been trained on. Source: RampupBatchsizeNumMicroBatchesCalculator of
// megatron/core/num_microbatches_calculator.py (0.16).
#pragma once
#include <cstdint>
#include <vector>

#include "config/config.h"

namespace ponte {

class BatchSizes {
 public:
  // `replicas` share a step. Of a configuration that validate() accepts.
  BatchSizes(const TrainConfig& config, int64_t replicas);

  // Of the step after so many sequences, a multiple of micro_batch_size x replicas.
  int64_t at(int64_t consumed_samples) const;
  // Every size there is, smallest first, before decrease_batch_size_if_needed.
  static std::vector<int64_t> all(const TrainConfig& config);

 private:
  const int64_t last_, share_;        // train.global_batch_size; micro_batch_size x replicas
  const std::vector<int64_t> ramp_;   // start, increment, samples; empty: none
  const bool decreases_;
};

}  // namespace ponte
