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

std::vector<std::string> parameters_with_non_finite_values(RankModel& model) {
  std::vector<std::string> out;
  for (const Parameter* parameter : model.parameters())
    if (!at::isfinite(parameter->kept_value.tensor).all().item<bool>()) out.push_back(parameter->name);
  return out;
}

std::vector<int64_t> bad_samples(const MicroBatch& micro, const at::Tensor& token_losses_BT) {
  const at::Tensor finite_B = at::isfinite(token_losses_BT).all(1);
  std::vector<int64_t> out;
  for (size_t b = 0; b < micro.sample_ids.size(); ++b)
    if (!finite_B[static_cast<int64_t>(b)].item<bool>()) out.push_back(micro.sample_ids[b]);
  return out;
}

// Samples and place; the place by running the batch again where one rank holds all layers (its tensor-parallel ranks saw the same loss and do so too).
std::string describe_loss(Run& run, const MicroBatch& micro, const NonFiniteLoss& bad) {
  std::string out = format("the loss is not finite for samples {} of the training data", bad_samples(micro, bad.token_losses_BT));
  if (run.groups.pipeline->size() == 1 && run.groups.context->size() == 1 && run.groups.expert_tensor_expert->size() == 1)
    out += format("; the first activations that are not finite come out of {}", run.model->whole().first_non_finite(micro.batch));
  const std::vector<std::string> weights = parameters_with_non_finite_values(*run.model);
  return out + "; " + (weights.empty() ? "every weight is finite" : "weights that are not finite: " + shortened(weights));
}

// The first that any rank has to say.
[[noreturn]] void fail_together(Run& run, const std::string& mine) {
  if (run.ranks->size() == 1) fail("iteration {}: {}", run.state.train.step + 1, mine);
  const std::vector<std::string> all = gather_text(run.ranks->world(), mine);
  for (size_t r = 0; r < all.size(); ++r)
    if (!all[r].empty()) throw AgreedError(format("iteration {}: rank {}: {}", run.state.train.step + 1, r, all[r]));
  throw AgreedError(format("iteration {}: the loss is not finite", run.state.train.step + 1));
}

}  // namespace

void report_non_finite_loss(Run& run, const std::vector<MicroBatch>& micro_batches, const std::optional<NonFiniteLoss>& mine) {
  run.ranks->phase("reporting a loss that is not finite");
  fail_together(run, mine ? describe_loss(run, micro_batches[mine->micro_batch], *mine) : "");
}

void report_non_finite_gradients(Run& run, const std::vector<MicroBatch>& micro_batches, const std::vector<std::string>& parameters) {
  std::vector<int64_t> samples;
  for (const MicroBatch& micro : micro_batches) {
    if (run.ranks->size() == 1) {
      run.model->zero_gradients();
      run.model->whole().forward_loss(micro.batch, run.loss_scaler.scale() / std::max(micro.valid_tokens, 1.0)).scaled.backward();
      if (run.optimizer->measure(1.0, AdamW::Zeros::not_counted).non_finite.empty()) continue;
    }
    samples.insert(samples.end(), micro.sample_ids.begin(), micro.sample_ids.end());
  }
  const char* which = run.ranks->size() == 1 ? "samples {} of the training data" : "of the step, this rank's samples {}";
  fail_together(run, format("the gradient is not finite for {} ({})", shortened(parameters), format(which, samples)));
}

}  // namespace ponte
