#include "train/train_step.h"

#include <ATen/ATen.h>

#include <cmath>

#include "base/errors.h"
#include "optim/distributed.h"
#include "parallel/pipeline.h"
#include "train/non_finite.h"

namespace ponte {
namespace {

std::vector<Batch> batches_of(const std::vector<MicroBatch>& micro_batches) {
  std::vector<Batch> out;
  for (const MicroBatch& micro : micro_batches) out.push_back(micro.batch);
  return out;
}

std::optional<NonFiniteLoss> first_non_finite(const std::vector<std::pair<size_t, LossSum>>& losses) {
  for (const auto& [micro, loss] : losses)
    if (!std::isfinite(loss.sum.item<double>())) return NonFiniteLoss{micro, loss.token_losses_BT};
  return std::nullopt;
}

// The update, after the gradients are whole. Nothing changes where they overflowed under loss scaling.
void update(Run& run, const std::vector<MicroBatch>& micro_batches, StepResult& out) {
  const double loss_scale = run.loss_scaler.scale();
  const auto zeros = run.config.optimizer.log_num_zeros_in_grad ? AdamW::Zeros::counted : AdamW::Zeros::not_counted;
  const GradientReport gradients = measure_over(*run.optimizer, run.ranks->world(), 1.0 / loss_scale, zeros);
  out.grad_norm = gradients.norm;
  out.zeros = gradients.zeros;
  out.skipped = run.loss_scaler.is_dynamic() && !gradients.non_finite.empty();
  run.loss_scaler.update(out.skipped);
  if (out.skipped) return;
  if (run.config.train.check_for_nan_in_loss && !gradients.non_finite.empty()) report_non_finite_gradients(run, micro_batches, gradients.non_finite);
  run.optimizer->step(run.schedule.learning_rate(run.state.schedule_steps), run.schedule.weight_decay(run.state.schedule_steps),
                      clip_factor(gradients.norm, run.config.optimizer.clip_grad) / loss_scale);
  run.ranks->phase("gathering parameters");
  run.replicas->gather_values();
  run.model->update_expert_biases();
}

}  // namespace

StepResult train_step(Run& run, const std::vector<MicroBatch>& micro_batches) {
  std::vector<std::pair<size_t, LossSum>> losses;  // looked at only when something is wrong: a look waits for the device
  const auto keep = [&](size_t micro, const LossSum& loss) { losses.push_back({micro, {.sum = loss.sum, .token_losses_BT = loss.token_losses_BT}}); };
  run.ranks->phase(format("forward and backward of iteration {}", run.state.train.step + 1));
  run.model->zero_gradients();
  const StepLoss loss = run_micro_batches(run.model->chunks(), batches_of(micro_batches), {.loss_scale = run.loss_scaler.scale(), .on_loss = keep});
  if (run.config.train.check_for_nan_in_loss && !std::isfinite(loss.sum)) report_non_finite_loss(run, micro_batches, first_non_finite(losses));
  run.ranks->phase("reducing gradients");
  run.replicas->reduce_gradients();
  run.model->reduce_reports();
  StepResult out{.loss = loss.sum / std::max(loss.valid_tokens, 1.0)};  // a step whose every label is masked has loss zero
  update(run, micro_batches, out);
  if (run.config.logger.log_params_norm) out.parameter_norm = parameter_norm_over(*run.optimizer, run.ranks->world());
  return out;
}

double evaluate(Run& run, BatchLoader& loader) {
  at::NoGradGuard no_grad;
  run.ranks->phase("evaluating");
  double sum = 0, valid_tokens = 0;
  for (int64_t i = 0; i < run.config.validation.eval_iters; ++i) {
    const StepLoss loss = run_micro_batches(run.model->chunks(), batches_of(loader.next_step()));
    sum += loss.sum;
    valid_tokens += loss.valid_tokens;
  }
  run.state.train.consumed_valid_samples = loader.consumed_samples();
  return sum / std::max(valid_tokens, 1.0);
}

}  // namespace ponte
