#include "train/non_finite.h"

#include <ATen/ATen.h>

#include "base/errors.h"

namespace ponte {
namespace {

// The first few names, and how many more there are.
std::string shortened(const std::vector<std::string>& names) {
  constexpr size_t kShown = 4;
  std::vector<std::string> shown(names.begin(), names.begin() + static_cast<int64_t>(std::min(kShown, names.size())));
  return join(shown, ", ") + (names.size() > kShown ? format(" and {} more", names.size() - kShown) : "");
}

std::vector<std::string> parameters_with_non_finite_values(Model& model) {
  std::vector<std::string> out;
  for (const Parameter* parameter : model.parameters())
    if (!at::isfinite(parameter->value.detach()).all().item<bool>()) out.push_back(parameter->name);
  return out;
}

}  // namespace

void report_non_finite_loss(Run& run, const MicroBatch& micro, const at::Tensor& token_losses_BT) {
  const at::Tensor finite_B = at::isfinite(token_losses_BT).all(1);
  std::vector<int64_t> samples;
  for (size_t b = 0; b < micro.sample_ids.size(); ++b)
    if (!finite_B[static_cast<int64_t>(b)].item<bool>()) samples.push_back(micro.sample_ids[b]);
  const std::vector<std::string> bad = parameters_with_non_finite_values(*run.model);
  fail("iteration {}: the loss is not finite for samples {} of the training data; the first activations that are not finite come out of {}; {}",
       run.state.train.step + 1, samples, run.model->first_non_finite(micro.batch),
       bad.empty() ? "every weight is finite" : "weights that are not finite: " + shortened(bad));
}

void report_non_finite_gradients(Run& run, const std::vector<MicroBatch>& micro_batches, const std::vector<std::string>& parameters) {
  std::vector<int64_t> samples;
  for (const MicroBatch& micro : micro_batches) {
    run.model->zero_gradients();
    run.model->forward_loss(micro.batch, run.loss_scaler.scale() / std::max(micro.valid_tokens, 1.0)).scaled.backward();
    run.model->reduce_gradients();
    if (!run.optimizer->measure(1.0, AdamW::Zeros::not_counted).non_finite.empty())
      samples.insert(samples.end(), micro.sample_ids.begin(), micro.sample_ids.end());
  }
  fail("iteration {}: the gradient is not finite for {} (samples {} of the training data)", run.state.train.step + 1, shortened(parameters), samples);
}

}  // namespace ponte
