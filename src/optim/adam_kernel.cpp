// Plain loops, compiled once per instruction set and chosen at load time. Elements are independent, so vector width does not change them.
#include "optim/adam_kernel.h"

#include <bit>
#include <cmath>

#include "base/dtype.h"
#include "base/errors.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("O3", "fp-contract=off")  // no fused multiply-add: one result on every machine
#endif
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define PONTE_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define PONTE_CLONES
#endif

namespace ponte {
namespace {

template <class Real>
struct Scalars {
  explicit Scalars(const AdamScalars& s)
      : lr(s.lr), beta1(s.beta1), beta2(s.beta2), eps(s.eps), weight_decay(s.weight_decay), gradient_scale(s.gradient_scale),
        inverse1(1.0 / s.bias_correction1), inverse2(1.0 / s.bias_correction2) {}
  Real lr, beta1, beta2, eps, weight_decay, gradient_scale, inverse1, inverse2;
};

template <class Real>
[[gnu::always_inline]] inline void adam_body(Real* __restrict param, const Real* __restrict gradient, Real* __restrict exp_avg,
                                             Real* __restrict exp_avg_sq, int64_t n, const Scalars<Real> s) {
  const Real one_minus_beta1 = Real(1) - s.beta1, one_minus_beta2 = Real(1) - s.beta2;
  for (int64_t i = 0; i < n; ++i) {
    const Real g = gradient[i] * s.gradient_scale;
    const Real m = s.beta1 * exp_avg[i] + one_minus_beta1 * g;
    const Real v = s.beta2 * exp_avg_sq[i] + one_minus_beta2 * (g * g);
    const Real update = (m * s.inverse1) / (std::sqrt(v * s.inverse2) + s.eps) + s.weight_decay * param[i];
    exp_avg[i] = m;
    exp_avg_sq[i] = v;
    param[i] -= s.lr * update;
  }
}

PONTE_CLONES void adam_f32(float* param, const float* gradient, float* exp_avg, float* exp_avg_sq, int64_t n, Scalars<float> s) {
  adam_body(param, gradient, exp_avg, exp_avg_sq, n, s);
}
PONTE_CLONES void adam_f64(double* param, const double* gradient, double* exp_avg, double* exp_avg_sq, int64_t n, Scalars<double> s) {
  adam_body(param, gradient, exp_avg, exp_avg_sq, n, s);
}

constexpr int64_t kLanes = 16;  // partial sums; fixed, so that the order of the additions does not follow the vector width

template <class Real>
[[gnu::always_inline]] inline double squares_body(const Real* __restrict values, int64_t n) {
  double lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int64_t j = 0; j < kLanes; ++j) {
      const double x = values[i + j];
      lanes[j] += x * x;
    }
  for (int64_t j = 0; i + j < n; ++j) {
    const double x = values[i + j];
    lanes[j] += x * x;
  }
  double sum = 0;
  for (double lane : lanes) sum += lane;
  return sum;
}

PONTE_CLONES double squares_f32(const float* values, int64_t n) { return squares_body(values, n); }
PONTE_CLONES double squares_f64(const double* values, int64_t n) { return squares_body(values, n); }

PONTE_CLONES void bf16_loop(const float* __restrict src, uint16_t* __restrict dst, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t bits = std::bit_cast<uint32_t>(src[i]);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
    dst[i] = static_cast<uint16_t>(is_nan ? 0x7fc0u : rounded);
  }
}

}  // namespace

void adam_update(std::span<float> param, std::span<const float> gradient, std::span<float> exp_avg, std::span<float> exp_avg_sq,
                 const AdamScalars& scalars) {
  PONTE_ASSERT(gradient.size() == param.size() && exp_avg.size() == param.size() && exp_avg_sq.size() == param.size());
  adam_f32(param.data(), gradient.data(), exp_avg.data(), exp_avg_sq.data(), static_cast<int64_t>(param.size()), Scalars<float>(scalars));
}

void adam_update(std::span<double> param, std::span<const double> gradient, std::span<double> exp_avg, std::span<double> exp_avg_sq,
                 const AdamScalars& scalars) {
  PONTE_ASSERT(gradient.size() == param.size() && exp_avg.size() == param.size() && exp_avg_sq.size() == param.size());
  adam_f64(param.data(), gradient.data(), exp_avg.data(), exp_avg_sq.data(), static_cast<int64_t>(param.size()), Scalars<double>(scalars));
}

double sum_of_squares(std::span<const float> values) { return squares_f32(values.data(), static_cast<int64_t>(values.size())); }
double sum_of_squares(std::span<const double> values) { return squares_f64(values.data(), static_cast<int64_t>(values.size())); }

void round_to_bf16(std::span<const float> src, std::span<uint16_t> dst) {
  PONTE_ASSERT(src.size() == dst.size());
  bf16_loop(src.data(), dst.data(), static_cast<int64_t>(src.size()));
}

void round_to_f16(std::span<const float> src, std::span<uint16_t> dst) {
  PONTE_ASSERT(src.size() == dst.size());
  for (size_t i = 0; i < src.size(); ++i) dst[i] = f16_from_f32(src[i]);
}

}  // namespace ponte
