// Work is cut into fixed chunks, so that partial sums and hence every result are the same whatever the number of threads.
#include "optim/adamw.h"

#include <ATen/ops/_foreach_copy.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "base/errors.h"
#include "kernels/parallel.h"
#include "optim/adam_kernel.h"
#include "optim/fused_adam.h"

namespace ponte {
namespace {

constexpr int64_t kChunk = 1 << 16;  // elements; five fp32 streams of this length stay in a core's second-level cache

bool is_decayed(DecayClass decay, bool apply_wd_to_qk_layernorm) {
  return decay == DecayClass::decayed || (decay == DecayClass::qk_layernorm && apply_wd_to_qk_layernorm);
}

template <class Real>
std::span<Real> part(const at::Tensor& tensor, int64_t begin, int64_t length) {
  return {tensor.data_ptr<std::remove_const_t<Real>>() + begin, static_cast<size_t>(length)};
}

std::span<uint16_t> low_precision_part(const at::Tensor& tensor, int64_t begin, int64_t length) {
  return {static_cast<uint16_t*>(tensor.data_ptr()) + begin, static_cast<size_t>(length)};
}

// value = main_param rounded; nothing to do where they are one tensor.
void publish(const AdamW::Slot& slot, int64_t begin, int64_t length) {
  const at::Tensor& value = slot.value;
  if (value.scalar_type() == at::kBFloat16) {
    round_to_bf16(part<const float>(slot.main_param, begin, length), low_precision_part(value, begin, length));
  } else if (value.scalar_type() == at::kHalf) {
    round_to_f16(part<const float>(slot.main_param, begin, length), low_precision_part(value, begin, length));
  }
}

template <class Real>
void update_part(const AdamW::Slot& slot, const at::Tensor& gradient, int64_t begin, int64_t length, const AdamScalars& scalars) {
  adam_update(part<Real>(slot.main_param, begin, length), part<const Real>(gradient, begin, length), part<Real>(slot.exp_avg, begin, length),
              part<Real>(slot.exp_avg_sq, begin, length), scalars);
}

double squares(const at::Tensor& tensor, int64_t begin, int64_t length) {
  return tensor.scalar_type() == at::kDouble ? sum_of_squares(part<const double>(tensor, begin, length))
                                             : sum_of_squares(part<const float>(tensor, begin, length));
}

int64_t count_zeros(const at::Tensor& tensor, int64_t begin, int64_t length) {
  const auto count = [](auto values) { return static_cast<int64_t>(std::count(values.begin(), values.end(), 0)); };
  return tensor.scalar_type() == at::kDouble ? count(part<const double>(tensor, begin, length)) : count(part<const float>(tensor, begin, length));
}

}  // namespace

double clip_factor(double norm, double max_norm) { return max_norm > 0 ? std::min(1.0, max_norm / (norm + 1.0e-6)) : 1.0; }

void AdamW::append_chunks(int64_t slot, int64_t begin, int64_t end, std::vector<Chunk>& out) const {
  for (; begin < end; begin += kChunk) out.push_back({slot, begin, std::min(kChunk, end - begin)});
}

AdamW::AdamW(std::span<const Part> parts, const AdamSettings& settings) : settings_(settings) {
  for (const Part& p : parts) {
    const KeptRows& kept = p.parameter->kept_value;
    if (!p.parameter->value.requires_grad()) continue;
    PONTE_ASSERT(kept.tensor.is_contiguous() && kept.rows.begin <= p.rows.begin && p.rows.end <= kept.rows.end);
    on_host_ = kept.tensor.device().is_cpu();
    const bool low_precision = kept.tensor.scalar_type() == at::kBFloat16 || kept.tensor.scalar_type() == at::kHalf;
    const at::Tensor value = kept.tensor.narrow(0, p.rows.begin - kept.rows.begin, p.rows.count());
    Slot slot{.parameter = p.parameter, .rows = p.rows, .value = value, .main_param = low_precision ? value.to(at::kFloat) : value, .exp_avg = {},
              .exp_avg_sq = {}, .decayed = is_decayed(p.parameter->decay, settings.apply_wd_to_qk_layernorm)};
    slot.exp_avg = at::zeros_like(slot.main_param);
    slot.exp_avg_sq = at::zeros_like(slot.main_param);
    const auto number = static_cast<int64_t>(slots_.size());
    const int64_t row = value.size(0) == 0 ? 0 : value.numel() / value.size(0);
    append_chunks(number, 0, value.numel(), chunks_);
    for (const Rows& rows : p.counted) {
      const Rows inside{rows.begin - p.rows.begin, rows.end - p.rows.begin};
      append_chunks(number, inside.begin * row, inside.end * row, counted_);
      counted_rows_.push_back({number, inside});
    }
    slots_.push_back(std::move(slot));
  }
  require(parts.empty() || !slots_.empty(), "nothing to train: every parameter is frozen");  // a pipeline stage may be empty
}

namespace {

std::vector<AdamW::Part> whole_parts(std::span<Parameter* const> parameters) {
  std::vector<AdamW::Part> out;
  for (Parameter* p : parameters) {
    const Rows all{0, p->value.size(0)};
    out.push_back({p, all, {all}});
  }
  return out;
}

}  // namespace

AdamW::AdamW(std::span<Parameter* const> parameters, const AdamSettings& settings) : AdamW(whole_parts(parameters), settings) {}

std::vector<at::Tensor> AdamW::slot_gradients() const {
  std::vector<at::Tensor> out;
  for (const Slot& slot : slots_) out.push_back(slot.gradient());
  return out;
}

GradientReport AdamW::measure(double gradient_scale, Zeros zeros) const {
  if (!on_host_) return measure_device(gradient_scale, zeros);
  const int64_t n = static_cast<int64_t>(counted_.size());
  std::vector<double> sums(n);
  std::vector<int64_t> zero_counts(n);
  const std::vector<at::Tensor> gradients = slot_gradients();
  parallel_parts(0, n, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const Chunk& chunk = counted_[i];
      const at::Tensor& gradient = gradients[chunk.slot];
      sums[i] = squares(gradient, chunk.begin, chunk.length);
      if (zeros == Zeros::counted) zero_counts[i] = count_zeros(gradient, chunk.begin, chunk.length);
    }
  });
  GradientReport report;
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    sum += sums[i];
    report.zeros += zero_counts[i];
    const std::string& name = slots_[counted_[i].slot].parameter->name;
    if (!std::isfinite(sums[i]) && (report.non_finite.empty() || report.non_finite.back() != name)) report.non_finite.push_back(name);
  }
  report.squares = sum;
  report.norm = std::sqrt(sum) * gradient_scale;
  return report;
}

GradientReport AdamW::measure_device(double gradient_scale, Zeros zeros) const {
  std::vector<at::Tensor> gradients;
  for (const auto& [slot, rows] : counted_rows_) gradients.push_back(slots_[slot].gradient().narrow(0, rows.begin, rows.count()));
  const Measured found = measure_on_device(gradients, zeros == Zeros::counted ? CountZeros::yes : CountZeros::no);
  GradientReport report;
  for (size_t i = 0; i < found.norms.size(); ++i) {
    report.squares += found.norms[i] * found.norms[i];
    if (!found.zeros.empty()) report.zeros += found.zeros[i];
    const std::string& name = slots_[counted_rows_[i].first].parameter->name;
    if (!std::isfinite(found.norms[i]) && (report.non_finite.empty() || report.non_finite.back() != name)) report.non_finite.push_back(name);
  }
  report.norm = std::sqrt(report.squares) * gradient_scale;
  return report;
}

void AdamW::step_on_device(const AdamScalars& decayed, const AdamScalars& not_decayed) {
  const at::NoGradGuard off;
  for (const AdamScalars* scalars : {&decayed, &not_decayed}) {
    FusedTensors tensors;
    for (const Slot& slot : slots_) {
      if (slot.decayed != (scalars == &decayed)) continue;
      tensors.params.push_back(slot.main_param.detach());
      tensors.gradients.push_back(slot.gradient());
      tensors.exp_avgs.push_back(slot.exp_avg);
      tensors.exp_avg_sqs.push_back(slot.exp_avg_sq);
    }
    fused_adam_update(tensors, *scalars, steps_);
  }
  values_from_main_params();
}

void AdamW::step(double lr, double weight_decay, double gradient_scale) {
  ++steps_;
  AdamScalars decayed{.lr = lr, .beta1 = settings_.beta1, .beta2 = settings_.beta2, .eps = settings_.eps, .weight_decay = weight_decay,
                      .bias_correction1 = 1.0 - std::pow(settings_.beta1, static_cast<double>(steps_)),
                      .bias_correction2 = 1.0 - std::pow(settings_.beta2, static_cast<double>(steps_)), .gradient_scale = gradient_scale};
  AdamScalars not_decayed = decayed;
  not_decayed.weight_decay = 0;
  if (!on_host_) return step_on_device(decayed, not_decayed);
  const std::vector<at::Tensor> gradients = slot_gradients();
  parallel_parts(0, static_cast<int64_t>(chunks_.size()), 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const Chunk& chunk = chunks_[i];
      const Slot& slot = slots_[chunk.slot];
      const AdamScalars& scalars = slot.decayed ? decayed : not_decayed;
      if (slot.main_param.scalar_type() == at::kDouble) update_part<double>(slot, gradients[chunk.slot], chunk.begin, chunk.length, scalars);
      else update_part<float>(slot, gradients[chunk.slot], chunk.begin, chunk.length, scalars);
      publish(slot, chunk.begin, chunk.length);
    }
  });
}

void AdamW::main_params_from_values() {
  for (Slot& slot : slots_)
    if (!slot.main_param.is_alias_of(slot.value)) slot.main_param.copy_(slot.value);
}

void AdamW::values_from_main_params() {
  if (on_host_) {
    for (const Slot& slot : slots_) publish(slot, 0, slot.main_param.numel());
    return;
  }
  std::vector<at::Tensor> values, mains;
  for (const Slot& slot : slots_) {
    if (slot.main_param.is_alias_of(slot.value)) continue;
    values.push_back(slot.value);
    mains.push_back(slot.main_param);
  }
  const at::NoGradGuard off;
  if (!values.empty()) at::_foreach_copy_(values, mains);
}

double AdamW::parameter_squares() const {
  if (!on_host_) {
    std::vector<at::Tensor> parts;
    for (const auto& [number, rows] : counted_rows_)
      parts.push_back(slots_[number].main_param.detach().narrow(0, rows.begin, rows.count()));
    double sum = 0;
    for (const double norm : measure_on_device(parts, CountZeros::no).norms) sum += norm * norm;
    return sum;
  }
  std::vector<double> sums(counted_.size());
  parallel_parts(0, static_cast<int64_t>(counted_.size()), 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      sums[i] = squares(slots_[counted_[i].slot].main_param, counted_[i].begin, counted_[i].length);
    }
  });
  double sum = 0;
  for (double s : sums) sum += s;
  return sum;
}

int64_t AdamW::state_bytes() const {
  int64_t bytes = 0;
  for (const Slot& slot : slots_) {
    const int64_t one = static_cast<int64_t>(slot.main_param.nbytes());
    bytes += 2 * one + (slot.main_param.is_alias_of(slot.value) ? 0 : one);
  }
  return bytes;
}

}  // namespace ponte
