// The arithmetic of one optimizer step over spans, at memory speed. Results depend on the values alone: not on the number of threads, nor on
// the instruction set. Source of the update: AdamW as the FusedAdam of Apex and Transformer Engine computes it (decoupled decay, Loshchilov &
// Hutter 2019).
#pragma once
#include <cstdint>
#include <span>

namespace ponte {

// Scalars of one step, rounded once to the type of the spans.
struct AdamScalars {
  double lr = 0, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0;
  double bias_correction1 = 1, bias_correction2 = 1;  // 1 - beta^step
  double gradient_scale = 1;                          // unscaling and clipping, folded into the read of the gradient
};

// All spans have one length. param, exp_avg and exp_avg_sq are updated in place.
void adam_update(std::span<float> param, std::span<const float> gradient, std::span<float> exp_avg, std::span<float> exp_avg_sq,
                 const AdamScalars& scalars);
void adam_update(std::span<double> param, std::span<const double> gradient, std::span<double> exp_avg, std::span<double> exp_avg_sq,
                 const AdamScalars& scalars);

// Sum of squares in fp64, in an order fixed by the length alone. For fp32 it is not finite exactly when some element is not.
double sum_of_squares(std::span<const float> values);
double sum_of_squares(std::span<const double> values);

// dst = src rounded to nearest even; NaN stays NaN.
void round_to_bf16(std::span<const float> src, std::span<uint16_t> dst);
void round_to_f16(std::span<const float> src, std::span<uint16_t> dst);

}  // namespace ponte
