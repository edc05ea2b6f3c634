#include "nn/rotary.h"

#include <ATen/ATen.h>

#include <cmath>
#include <numbers>

#include "base/errors.h"

namespace ponte {
namespace {

// base^(2 i / dims), fp32.
at::Tensor powers(double base, int64_t dims) { return at::pow(at::Scalar(base), at::arange(0, dims, 2, at::kLong).to(at::kFloat) / dims); }

double yarn_magnitude(double scale, double weight) { return scale <= 1 ? 1.0 : 0.1 * weight * std::log(scale) + 1.0; }

double yarn_attention_factor(const ModelConfig& c) {
  if (c.yarn_attention_factor) return *c.yarn_attention_factor;
  if (c.yarn_mscale.value_or(0) != 0 && c.yarn_mscale_all_dim.value_or(0) != 0)
    return yarn_magnitude(c.rope_scaling_factor, *c.yarn_mscale) / yarn_magnitude(c.rope_scaling_factor, *c.yarn_mscale_all_dim);
  return yarn_magnitude(c.rope_scaling_factor, 1);
}

// Dimensions that turn more than beta_fast times over the trained length keep their frequency, those that turn less than beta_slow times are
// slowed by the factor, with a linear ramp between.
at::Tensor yarn_frequencies(const ModelConfig& c, int64_t dims) {
  const auto dimension = [&](double turns) {
    return dims * std::log(static_cast<double>(c.original_max_position_embeddings) / (turns * 2 * std::numbers::pi)) / (2 * std::log(c.rotary_base));
  };
  double low = dimension(c.yarn_beta_fast), high = dimension(c.yarn_beta_slow);
  if (c.yarn_truncate) low = std::floor(low), high = std::ceil(high);
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(dims - 1));
  if (low == high) high += 0.001;
  const at::Tensor ramp = at::clamp((at::arange(dims / 2, at::kFloat) - low) / (high - low), 0, 1), kept = 1 - ramp;
  const at::Tensor p = powers(c.rotary_base, dims);
  return 1.0 / (c.rope_scaling_factor * p) * (1 - kept) + 1.0 / p * kept;
}

// Wave lengths beyond the trained length are stretched by the factor, short ones kept, with a smooth passage (Llama 3.1).
at::Tensor llama3_frequencies(const ModelConfig& c, int64_t dims) {
  const double trained = static_cast<double>(c.original_max_position_embeddings), low = c.rope_low_freq_factor, high = c.rope_high_freq_factor;
  const at::Tensor f = 1.0 / powers(c.rotary_base, dims), wave = 2 * std::numbers::pi / f;
  const at::Tensor stretched = at::where(wave > trained / low, f / c.rope_scaling_factor, f);
  const at::Tensor smooth = (trained / wave - low) / (high - low);
  const at::Tensor passage = (1 - smooth) * stretched / c.rope_scaling_factor + smooth * stretched;
  return at::where(at::logical_and(wave >= trained / high, wave <= trained / low), passage, stretched);
}

}  // namespace

RotaryEmbedding::RotaryEmbedding(const ModelConfig& c)
    : rotary_dims_(static_cast<int64_t>(static_cast<double>(c.kv_channels) * c.rotary_percent)),
      dynamic_(c.rope_scaling_type == "dynamic"),
      base_(c.rotary_base),
      factor_(c.rope_scaling_factor),
      trained_length_(c.max_position_embeddings) {
  require(rotary_dims_ % 2 == 0 && rotary_dims_ > 0, "model: {} rotary dimensions, wanted a positive even number", rotary_dims_);
  const std::string& type = c.rope_scaling_type;
  if (type == "none" || type == "default" || dynamic_) {
    inverse_frequencies_R_ = 1.0 / powers(base_, rotary_dims_);
  } else if (type == "linear") {
    inverse_frequencies_R_ = 1.0 / powers(base_, rotary_dims_) / factor_;
  } else if (type == "yarn") {
    inverse_frequencies_R_ = yarn_frequencies(c, rotary_dims_);
    attention_factor_ = yarn_attention_factor(c);
  } else if (type == "llama3") {
    inverse_frequencies_R_ = llama3_frequencies(c, rotary_dims_);
  } else {
    fail("model.rope_scaling_type: '{}' is unknown, wanted none, linear, dynamic, yarn or llama3", type);
  }
}

at::Tensor RotaryEmbedding::dynamic_frequencies(int64_t length) const {
  const double d = static_cast<double>(rotary_dims_);
  const double base = base_ * std::pow(factor_ * static_cast<double>(length) / static_cast<double>(trained_length_) - (factor_ - 1), d / (d - 2));
  return 1.0 / powers(base, rotary_dims_);
}

Angles RotaryEmbedding::operator()(const at::Tensor& position_ids_S, const at::Device& device) const {
  at::NoGradGuard off;
  at::Tensor frequencies_R = inverse_frequencies_R_;
  if (dynamic_) {
    const int64_t length = position_ids_S.numel() ? position_ids_S.max().item<int64_t>() + 1 : 0;
    if (length > trained_length_) frequencies_R = dynamic_frequencies(length);
  }
  const auto moved = [&](const at::Tensor& t) { return t.to(device, at::kFloat, /*non_blocking=*/true); };
  const at::Tensor angle_SR = moved(position_ids_S).unsqueeze(-1) * moved(frequencies_R);
  if (attention_factor_ == 1) return {at::cos(angle_SR), at::sin(angle_SR)};
  return {at::cos(angle_SR) * attention_factor_, at::sin(angle_SR) * attention_factor_};
}

}  // namespace ponte
