// Learning rate and weight decay as functions of the samples seen so far. Source: Megatron Core's OptimizerParamScheduler; a "step" here, as
// there, is one training sample, so a schedule keeps its shape when the batch size changes.
#pragma once
#include <cstdint>
#include <string>

namespace ponte {

struct Schedule {
  double init_lr = 0, max_lr = 0, min_lr = 0;
  double lr_warmup_steps = 0;   // samples; a fraction of lr_decay_steps may leave it non-integral
  int64_t lr_decay_steps = 0;   // samples, warm-up included
  std::string lr_decay_style = "cosine";        // constant, linear, cosine, inverse-square-root, WSD
  int64_t wsd_decay_steps = 0;                  // WSD: samples of the final decay
  std::string lr_wsd_decay_style = "exponential";  // exponential, linear, cosine, minus_sqrt
  double start_wd = 0, end_wd = 0;
  int64_t wd_incr_steps = 0;
  std::string wd_incr_style = "constant";       // constant, linear, cosine

  // UserError naming the field when the values contradict each other.
  void validate() const;
  double learning_rate(int64_t steps) const;
  double weight_decay(int64_t steps) const;
};

}  // namespace ponte
