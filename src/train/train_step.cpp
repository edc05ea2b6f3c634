#include "train/train_step.h"

#include <ATen/ATen.h>

#include <cmath>

#include "base/errors.h"
#include "train/non_finite.h"

namespace ponte {
namespace {

double total_valid_tokens(const std::vector<MicroBatch>& micro_batches) {
  double total = 0;
  for (const MicroBatch& m : micro_batches) total += m.valid_tokens;
  return total;
}

}  // namespace

StepResult train_step(Run& run, const std::vector<MicroBatch>& micro_batches) {
  const double valid_tokens = std::max(total_valid_tokens(micro_batches), 1.0);  // a step whose every label is masked has loss zero
  const double loss_scale = run.loss_scaler.scale();
  const bool check = run.config.train.check_for_nan_in_loss;
  double sum = 0;
  run.model->zero_gradients();
  for (const MicroBatch& micro : micro_batches) {
    LossSum loss = run.model->forward_loss(micro.batch, loss_scale / valid_tokens);
    const double micro_sum = loss.sum.item<double>();
    if (check && !std::isfinite(micro_sum)) report_non_finite_loss(run, micro, loss.token_losses_BT);
    loss.scaled.backward();
    sum += micro_sum;
  }
  run.model->reduce_gradients();

  const auto zeros = run.config.optimizer.log_num_zeros_in_grad ? AdamW::Zeros::counted : AdamW::Zeros::not_counted;
  const GradientReport gradients = run.optimizer->measure(1.0 / loss_scale, zeros);
  StepResult out{.loss = sum / valid_tokens, .grad_norm = gradients.norm, .zeros = gradients.zeros};
  out.skipped = run.loss_scaler.is_dynamic() && !gradients.non_finite.empty();
  run.loss_scaler.update(out.skipped);
  if (out.skipped) return out;
  if (check && !gradients.non_finite.empty()) report_non_finite_gradients(run, micro_batches, gradients.non_finite);
  run.optimizer->step(run.schedule.learning_rate(run.state.schedule_steps), run.schedule.weight_decay(run.state.schedule_steps),
                      clip_factor(gradients.norm, run.config.optimizer.clip_grad) / loss_scale);
  run.model->update_expert_biases();
  return out;
}

double evaluate(Run& run, BatchLoader& loader) {
  at::NoGradGuard no_grad;
  double sum = 0, valid_tokens = 0;
  for (int64_t i = 0; i < run.config.validation.eval_iters; ++i)
    for (const MicroBatch& micro : loader.next_step()) {
      sum += run.model->forward_loss(micro.batch).sum.item<double>();
      valid_tokens += micro.valid_tokens;
    }
  run.state.train.consumed_valid_samples = loader.consumed_samples();
  return sum / std::max(valid_tokens, 1.0);
}

}  // namespace ponte
