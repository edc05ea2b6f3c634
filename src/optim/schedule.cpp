#include "optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/errors.h"

namespace ponte {
namespace {

void require_one_of(const std::string& value, std::initializer_list<const char*> allowed, const char* field) {
  std::string list;
  for (const char* name : allowed) {
    if (value == name) return;
    list += (list.empty() ? "" : ", ") + std::string(name);
  }
  fail("{} is \"{}\": expected one of {}", field, value, list);
}

// 1 at the start of the decay, 0 at its end.
double half_cosine(double ratio) { return 0.5 * (std::cos(std::numbers::pi * ratio) + 1.0); }

double wsd_coefficient(const std::string& style, double ratio) {
  if (style == "linear") return 1.0 - ratio;
  if (style == "cosine") return half_cosine(ratio);
  if (style == "exponential") return 2.0 * std::pow(0.5, ratio) - 1.0;
  return 1.0 - std::sqrt(ratio);  // minus_sqrt
}

}  // namespace

void Schedule::validate() const {
  require(min_lr >= 0, "optimizer.min_lr is {}: a learning rate is not negative", min_lr);
  require(max_lr >= min_lr, "optimizer.lr is {}: less than optimizer.min_lr {}", max_lr, min_lr);
  require(init_lr <= max_lr, "scheduler.lr_warmup_init is {}: more than optimizer.lr {}", init_lr, max_lr);
  require(lr_decay_steps > 0, "the learning-rate schedule has {} decay samples: raise train.train_iters or scheduler.lr_decay_iters", lr_decay_steps);
  require(lr_warmup_steps >= 0 && lr_warmup_steps < static_cast<double>(lr_decay_steps),
          "warm-up takes {} samples and the whole schedule {}: warm-up must be shorter", lr_warmup_steps, lr_decay_steps);
  require_one_of(lr_decay_style, {"constant", "linear", "cosine", "inverse-square-root", "WSD"}, "scheduler.lr_decay_style");
  if (lr_decay_style == "WSD") {
    require_one_of(lr_wsd_decay_style, {"exponential", "linear", "cosine", "minus_sqrt"}, "scheduler.lr_wsd_decay_style");
    require(wsd_decay_steps > 0, "scheduler.lr_decay_style WSD needs scheduler.lr_wsd_decay_iters above 0, found {} samples", wsd_decay_steps);
  }
  require(start_wd >= 0, "scheduler.start_weight_decay is {}: weight decay is not negative", start_wd);
  require(end_wd >= start_wd, "scheduler.end_weight_decay is {}: less than scheduler.start_weight_decay {}", end_wd, start_wd);
  require_one_of(wd_incr_style, {"constant", "linear", "cosine"}, "scheduler.weight_decay_incr_style");
  require(wd_incr_style != "constant" || start_wd == end_wd,
          "scheduler.weight_decay_incr_style constant needs equal start and end weight decay, found {} and {}", start_wd, end_wd);
}

double Schedule::learning_rate(int64_t steps) const {
  const double now = static_cast<double>(steps);
  if (lr_warmup_steps > 0 && now <= lr_warmup_steps) return init_lr + (max_lr - init_lr) * now / lr_warmup_steps;
  if (lr_decay_style == "constant") return max_lr;
  if (steps > lr_decay_steps) return min_lr;
  if (lr_decay_style == "inverse-square-root") {
    const double lr = max_lr * std::sqrt(std::max(lr_warmup_steps, 1.0)) / std::sqrt(std::max(now, 1.0));
    return std::max(min_lr, lr);
  }
  const double ratio = (now - lr_warmup_steps) / (static_cast<double>(lr_decay_steps) - lr_warmup_steps);
  double coefficient = 1.0;
  if (lr_decay_style == "linear") {
    coefficient = 1.0 - ratio;
  } else if (lr_decay_style == "cosine") {
    coefficient = half_cosine(ratio);
  } else if (const int64_t decay_start = lr_decay_steps - wsd_decay_steps; steps > decay_start) {  // WSD
    coefficient = wsd_coefficient(lr_wsd_decay_style, static_cast<double>(steps - decay_start) / static_cast<double>(wsd_decay_steps));
  }
  return min_lr + coefficient * (max_lr - min_lr);
}

double Schedule::weight_decay(int64_t steps) const {
  if (steps > wd_incr_steps || wd_incr_style == "constant") return end_wd;
  const double ratio = static_cast<double>(steps) / static_cast<double>(wd_incr_steps);
  const double coefficient = wd_incr_style == "linear" ? ratio : half_cosine(1.0 - ratio);
  return start_wd + coefficient * (end_wd - start_wd);
}

}  // namespace ponte
