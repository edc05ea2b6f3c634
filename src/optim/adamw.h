// AdamW over a model's parameters: fp32 main parameters and moments (fp64 for fp64 models), gradients read from Parameter::main_grad, one
// threaded pass for the norm and one for the update. The state is model-shaped: a checkpoint stores it under the parameter's name.
// Decay rules: Megatron Core's get_standard_config_overrides.
#pragma once
#include <ATen/core/Tensor.h>

#include <span>
#include <string>
#include <vector>

#include "nn/parameter.h"

namespace ponte {

struct AdamSettings {
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8;
  bool apply_wd_to_qk_layernorm = false;
};

// What the gradients of one step look like, after unscaling.
struct GradientReport {
  double norm = 0;
  int64_t zeros = 0;                    // elements equal to zero; counted when asked
  std::vector<std::string> non_finite;  // names of parameters whose gradient holds a NaN or an infinity
};

class AdamW {
 public:
  // One trained parameter. main_param is `parameter->value` itself when that is fp32 or fp64.
  struct Slot {
    Parameter* parameter;
    at::Tensor main_param, exp_avg, exp_avg_sq;  // the parameter's shape
    bool decayed;
  };
  enum class Zeros { counted, not_counted };

  // Takes the parameters that require a gradient; `value` must be contiguous and on the CPU.
  AdamW(std::span<Parameter* const> parameters, const AdamSettings& settings);

  // `gradient_scale`: what main_grad is multiplied by before anything else (1 / loss scale).
  GradientReport measure(double gradient_scale, Zeros zeros) const;
  // gradient_scale as above, times the clipping factor.
  void step(double lr, double weight_decay, double gradient_scale);

  int64_t steps() const { return steps_; }  // updates done; decides the bias correction
  void set_steps(int64_t steps) { steps_ = steps; }
  std::span<Slot> slots() { return slots_; }
  void main_params_from_values();  // after weights were loaded: main_param = value
  void values_from_main_params();  // after main parameters were loaded: value = main_param rounded
  double parameter_norm() const;   // of the main parameters
  int64_t state_bytes() const;

 private:
  struct Chunk {
    int64_t slot, begin, length;
  };
  AdamSettings settings_;
  std::vector<Slot> slots_;
  std::vector<Chunk> chunks_;
  int64_t steps_ = 0;
};

// Megatron's factor: max_norm / (norm + 1e-6) where that is below one, else one; max_norm 0: one.
double clip_factor(double norm, double max_norm);

}  // namespace ponte
