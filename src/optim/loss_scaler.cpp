#include "optim/loss_scaler.h"

#include <algorithm>

#include "base/errors.h"

namespace ponte {

LossScaler LossScaler::constant(double scale) {
  require(scale > 0, "optimizer.loss_scale is {}: it must be above 0", scale);
  LossScaler out;
  out.state_.scale = scale;
  return out;
}

LossScaler LossScaler::dynamic(const Settings& settings) {
  require(settings.min_scale > 0 && settings.min_scale <= settings.initial_scale,
          "optimizer.min_loss_scale is {}: it must be above 0 and at most optimizer.initial_loss_scale {}", settings.min_scale, settings.initial_scale);
  require(settings.growth_interval > 0, "optimizer.loss_scale_window is {}: it must be above 0", settings.growth_interval);
  require(settings.hysteresis > 0, "optimizer.hysteresis is {}: it must be above 0", settings.hysteresis);
  LossScaler out;
  out.settings_ = settings;
  out.state_ = {.scale = settings.initial_scale, .growth_tracker = 0, .hysteresis_tracker = settings.hysteresis};
  out.dynamic_ = true;
  return out;
}

void LossScaler::update(bool found_non_finite) {
  if (!dynamic_) return;
  if (found_non_finite) {
    state_.growth_tracker = 0;
    if (--state_.hysteresis_tracker <= 0) state_.scale = std::max(state_.scale * settings_.backoff_factor, settings_.min_scale);
  } else if (++state_.growth_tracker == settings_.growth_interval) {
    state_.growth_tracker = 0;
    state_.hysteresis_tracker = settings_.hysteresis;
    state_.scale *= settings_.growth_factor;
  }
}

}  // namespace ponte
