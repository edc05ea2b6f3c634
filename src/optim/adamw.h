// AdamW over a model's parameters: fp32 main parameters and moments (fp64 for fp64 models), gradients read from Parameter::kept_gradient, one
// threaded pass for the norm and one for the update; on a device the same through ATen's fused kernels. The state is model-shaped: a checkpoint stores it
// under the parameter's name.
// Decay rules: Megatron Core's get_standard_config_overrides.
#pragma once
#include <ATen/core/Tensor.h>

#include <span>
#include <string>
#include <vector>

#include "nn/parameter.h"
#include "optim/adam_kernel.h"

namespace ponte {

struct AdamSettings {
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8;
  bool apply_wd_to_qk_layernorm = false;
};

// What the gradients of one step look like, after unscaling.
struct GradientReport {
  double norm = 0;
  double squares = 0;                   // the norm's, before unscaling
  int64_t zeros = 0;                    // elements equal to zero; counted when asked
  std::vector<std::string> non_finite;  // names of parameters whose gradient holds a NaN or an infinity
};

class AdamW {
 public:
  // Rows of one trained parameter. main_param is `value` itself when that is fp32 or fp64.
  struct Slot {
    Parameter* parameter;
    Rows rows;
    at::Tensor value;                            // these rows of the parameter
    at::Tensor main_param, exp_avg, exp_avg_sq;  // value's shape
    bool decayed;

    at::Tensor gradient() const { return parameter->kept_gradient.tensor.narrow(0, rows.begin - parameter->kept_gradient.rows.begin, rows.count()); }
  };
  enum class Zeros { counted, not_counted };

  // What of a parameter this rank updates, of the rows it keeps, and which of these it counts in norms (ranks add theirs up).
  struct Part {
    Parameter* parameter;
    Rows rows;
    std::vector<Rows> counted;
  };
  // Takes the parameters that require a gradient; `value` must be contiguous; all on one device.
  AdamW(std::span<const Part> parts, const AdamSettings& settings);
  AdamW(std::span<Parameter* const> parameters, const AdamSettings& settings);  // all of them, whole

  // `gradient_scale`: what main_grad is multiplied by before anything else (1 / loss scale). Of the counted rows.
  GradientReport measure(double gradient_scale, Zeros zeros) const;
  // gradient_scale as above, times the clipping factor. On a device main_grad is left multiplied by it.
  void step(double lr, double weight_decay, double gradient_scale);

  int64_t steps() const { return steps_; }  // updates done; decides the bias correction
  void set_steps(int64_t steps) { steps_ = steps; }
  std::span<Slot> slots() { return slots_; }
  void main_params_from_values();  // after weights were loaded: main_param = value
  void values_from_main_params();  // after main parameters were loaded: value = main_param rounded
  double parameter_squares() const;  // sum over the counted rows this rank updates, of the main parameters
  int64_t state_bytes() const;

 private:
  struct Chunk {
    int64_t slot, begin, length;  // elements
  };
  std::vector<at::Tensor> slot_gradients() const;
  GradientReport measure_device(double gradient_scale, Zeros zeros) const;
  void step_on_device(const AdamScalars& decayed, const AdamScalars& not_decayed);
  void append_chunks(int64_t slot, int64_t begin, int64_t end, std::vector<Chunk>& out) const;
  AdamSettings settings_;
  std::vector<Slot> slots_;
  std::vector<Chunk> chunks_, counted_;
  std::vector<std::pair<int64_t, Rows>> counted_rows_;  // slot, and rows of it
  bool on_host_ = true;
  int64_t steps_ = 0;
};

// Megatron's factor: max_norm / (norm + 1e-6) where that is below one, else one; max_norm 0: one.
double clip_factor(double norm, double max_norm);

}  // namespace ponte
