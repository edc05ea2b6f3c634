// The factor the loss is multiplied by before backward, so that fp16 gradients do not underflow. Source: Megatron Core's grad_scaler.py.
#pragma once
#include <cstdint>

namespace ponte {

class LossScaler {
 public:
  struct Settings {
    double initial_scale = 4294967296.0;  // 2^32
    double min_scale = 1.0;
    double growth_factor = 2.0;
    double backoff_factor = 0.5;
    int64_t growth_interval = 1000;  // finite steps in a row before the scale grows (optimizer.loss_scale_window)
    int64_t hysteresis = 2;          // non-finite steps before it shrinks
  };
  // What a checkpoint keeps (the keys of Megatron's state dict).
  struct State {
    double scale = 1.0;
    int64_t growth_tracker = 0, hysteresis_tracker = 0;
    bool operator==(const State&) const = default;
  };

  static LossScaler constant(double scale);  // never moves; 1 for bf16 and fp32
  static LossScaler dynamic(const Settings& settings);  // UserError on settings that cannot work

  double scale() const { return state_.scale; }
  bool is_dynamic() const { return dynamic_; }
  void update(bool found_non_finite);
  const State& state() const { return state_; }
  void restore(const State& state) { state_ = state; }

 private:
  Settings settings_;
  State state_;
  bool dynamic_ = false;
};

}  // namespace ponte
