// Every op on the device under test against its definition: one table of shapes, in fp32 and bf16 (against the definition in fp64 on the same, rounded,
// inputs).
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "kernels/attention.h"
#include "kernels/cross_entropy.h"
#include "kernels/embedding.h"
#include "kernels/gemm.h"
#include "kernels/rms_norm.h"
#include "kernels/split_qkv.h"
#include "kernels/swiglu.h"
#include "test_device.h"

namespace ponte {
namespace {

struct Case {
  at::ScalarType type;
  double tolerance;  // norm-relative
};
const Case kCases[] = {{at::kFloat, 2e-6}, {at::kBFloat16, 4e-3}};

// |a - b| / |b| over all elements.
double distance(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.to(at::kCPU, at::kDouble), y = b.to(at::kCPU, at::kDouble);
  return ((x - y).norm() / (y.norm() + 1e-30)).item<double>();
}
#define EXPECT_CLOSE(a, b, c) EXPECT_LT(distance(a, b), (c).tolerance) << #a << " " << at::toString((c).type)

at::Tensor random(at::IntArrayRef shape, at::ScalarType type) { return on_test_device(at::randn(shape)).to(type); }
at::Tensor zeros(at::IntArrayRef shape, at::ScalarType type = at::kFloat) { return at::zeros(shape, at::TensorOptions(test_device()).dtype(type)); }
at::Tensor ones(at::IntArrayRef shape, at::ScalarType type = at::kFloat) { return zeros(shape, type).fill_(1); }
at::Tensor wide(const at::Tensor& t) { return t.defined() ? t.to(at::kDouble) : t; }

TEST(Kernels, Gemm) {
  at::manual_seed(1);
  for (const Case& c : kCases)
    for (const auto& [S, O, I] : std::vector<std::array<int64_t, 3>>{{1, 5, 7}, {33, 17, 40}, {70, 64, 96}}) {
      const at::Tensor x = random({S, I}, c.type), w = random({O, I}, c.type), dy = random({S, O}, c.type);
      EXPECT_CLOSE(times_transposed(x, w), at::mm(wide(x), wide(w).t()), c);
      EXPECT_CLOSE(times(dy, w), at::mm(wide(dy), wide(w)), c);
      at::Tensor gradient = ones({O, I});
      add_transposed_product(gradient, dy, x);
      EXPECT_CLOSE(gradient, at::mm(wide(dy).t(), wide(x)) + 1, c);
    }
}

TEST(Kernels, RmsNorm) {
  at::manual_seed(2);
  for (const Case& c : kCases)
    for (const auto& [S, H] : std::vector<std::array<int64_t, 2>>{{1, 8}, {37, 96}, {100, 65}})
      for (const double offset : {0.0, 1.0}) {
        const at::Tensor x = random({S, H}, c.type), w = random({H}, c.type), dy = random({S, H}, c.type);
        const NormOptions options{1e-6, offset};
        const auto got = rms_norm(x, w, options), wanted = rms_norm_reference(wide(x), wide(w), options);
        EXPECT_CLOSE(got.y_SH, wanted.y_SH, c);
        at::Tensor dw = ones({H}), dw_wanted = ones({H}, at::kDouble);
        const at::Tensor dx = rms_norm_backward(dy, x, w, got.rstd_S, options, dw);
        EXPECT_CLOSE(dx, rms_norm_backward_reference(wide(dy), wide(x), wide(w), wanted.rstd_S, options, dw_wanted), c);
        EXPECT_CLOSE(dw, dw_wanted, c);
      }
}

TEST(Kernels, RmsNormDefinitionAgreesWithAutograd) {
  at::manual_seed(3);
  const at::Tensor x = at::randn({5, 12}, at::kDouble).requires_grad_(), w = at::randn({12}, at::kDouble).requires_grad_();
  const at::Tensor dy = at::randn({5, 12}, at::kDouble);
  const auto y = rms_norm_reference(x, w, {1e-5, 1});
  y.y_SH.backward(dy);
  at::NoGradGuard off;
  at::Tensor dw = at::zeros({12}, at::kDouble);
  const at::Tensor dx = rms_norm_backward_reference(dy, x.detach(), w.detach(), y.rstd_S.detach(), {1e-5, 1}, dw);
  EXPECT_LT(distance(dx, x.grad()), 1e-13);
  EXPECT_LT(distance(dw, w.grad()), 1e-13);
}

TEST(Kernels, SwiGlu) {
  at::manual_seed(4);
  for (const Case& c : kCases)
    for (const auto& [S, F] : std::vector<std::array<int64_t, 2>>{{1, 3}, {40, 97}}) {
      const at::Tensor x = random({S, 2 * F}, c.type) * 5, dy = random({S, F}, c.type);
      EXPECT_CLOSE(swiglu(x), swiglu_reference(wide(x)), c);
      EXPECT_CLOSE(swiglu_backward(dy, x), swiglu_backward_reference(wide(dy), wide(x)), c);
      const at::Tensor v = wide(x).requires_grad_();
      swiglu_reference(v).backward(wide(dy));
      EXPECT_LT(distance(swiglu_backward_reference(wide(dy), v.detach()), v.grad()), 1e-13);
    }
}

QkvInputs qkv_inputs(int64_t B, int64_t T, HeadLayout layout, int64_t rotary, bool norm, at::ScalarType type) {
  QkvInputs in{layout, B, T, {}, {}, 1e-6, 0, {}, {}};
  if (norm) in.query_norm_D = random({layout.head_dim}, type), in.key_norm_D = random({layout.head_dim}, type);
  const at::Tensor angle = random({B * T, rotary / 2}, at::kFloat);
  in.cos_SR = at::cos(angle);
  in.sin_SR = at::sin(angle);
  return in;
}

QkvInputs widened(const QkvInputs& in) {
  return {in.layout, in.B, in.T, wide(in.query_norm_D), wide(in.key_norm_D), in.epsilon, in.offset, wide(in.cos_SR), wide(in.sin_SR)};
}

// The definitions' own tests differentiate on the host.
QkvInputs on_host(QkvInputs in) {
  for (at::Tensor* t : {&in.query_norm_D, &in.key_norm_D, &in.cos_SR, &in.sin_SR}) *t = t->to(at::kCPU);
  return in;
}

TEST(Kernels, SplitQkv) {
  at::manual_seed(5);
  for (const Case& c : kCases)
    for (const bool norm : {false, true})
      for (const auto& [rotary, gate] :
           std::vector<std::pair<int64_t, OutputGate>>{{4, OutputGate::none}, {16, OutputGate::none}, {24, OutputGate::none}, {6, OutputGate::per_head}}) {
        const HeadLayout layout{3, 2, 24, gate};
        const QkvInputs in = qkv_inputs(2, 19, layout, rotary, norm, c.type), in64 = widened(in);
        const at::Tensor qkv = random({38, 3 * layout.group_heads() * 24}, c.type);
        const auto got = split_qkv(qkv, in), wanted = split_qkv_reference(wide(qkv), in64);
        EXPECT_CLOSE(got.q_BNTD, wanted.q_BNTD, c);
        EXPECT_CLOSE(got.k_BGTD, wanted.k_BGTD, c);
        EXPECT_CLOSE(got.v_BGTD, wanted.v_BGTD, c);
        const at::Tensor dq = random(got.q_BNTD.sizes(), c.type), dk = random(got.k_BGTD.sizes(), c.type), dv = random(got.v_BGTD.sizes(), c.type);
        at::Tensor dqw = zeros({24}), dkw = zeros({24}), dqw64 = wide(dqw).clone(), dkw64 = wide(dkw).clone();
        at::Tensor dqkv = at::zeros_like(qkv);
        split_qkv_backward(qkv, in, dq, dk, dv, got.rstd, dqkv, dqw, dkw);
        EXPECT_CLOSE(dqkv, split_qkv_backward_reference(wide(qkv), in64, wide(dq), wide(dk), wide(dv), wanted.rstd, dqw64, dkw64), c);
        if (!norm) continue;
        EXPECT_CLOSE(dqw, dqw64, c);
        EXPECT_CLOSE(dkw, dkw64, c);
      }
}

TEST(Kernels, SplitQkvDefinitionAgreesWithAutograd) {
  at::manual_seed(6);
  for (const OutputGate gate : {OutputGate::none, OutputGate::per_head}) {
    QkvInputs in = on_host(widened(qkv_inputs(2, 5, {2, 3, 8, gate}, 6, true, at::kDouble)));
    in.query_norm_D.requires_grad_();
    in.key_norm_D.requires_grad_();
    const at::Tensor qkv = at::randn({10, 2 * in.layout.group_heads() * 8}, at::kDouble).requires_grad_();
    const auto out = split_qkv_reference(qkv, in);
    const at::Tensor dq = at::randn_like(out.q_BNTD), dk = at::randn_like(out.k_BGTD), dv = at::randn_like(out.v_BGTD);
    ((out.q_BNTD * dq).sum() + (out.k_BGTD * dk).sum() + (out.v_BGTD * dv).sum()).backward();
    at::NoGradGuard off;
    at::Tensor dqw = at::zeros({8}, at::kDouble), dkw = at::zeros({8}, at::kDouble);
    const at::Tensor d = split_qkv_backward_reference(qkv, in, dq, dk, dv, out.rstd, dqw, dkw);
    EXPECT_LT(distance(d, qkv.grad()), 1e-13);
    EXPECT_LT(distance(dqw, in.query_norm_D.grad()), 1e-13);
    EXPECT_LT(distance(dkw, in.key_norm_D.grad()), 1e-13);
  }
}

struct AttentionCase {
  int64_t B, N, G, T, past, D;
  std::optional<int64_t> window;
  bool documents;
};

TEST(Kernels, Attention) {
  at::manual_seed(7);
  const AttentionCase cases[] = {{1, 1, 1, 1, 0, 16, {}, false},  {2, 4, 2, 64, 0, 32, {}, false},   {2, 4, 1, 130, 0, 64, {}, false},
                                 {1, 2, 2, 200, 0, 24, 17, false}, {2, 4, 2, 150, 0, 32, {}, true}, {1, 6, 3, 70, 45, 16, {}, false},
                                 {1, 2, 1, 190, 0, 128, 64, true}};
  for (const Case& c : kCases)
    for (const AttentionCase& s : cases) {
      const int64_t S = s.T + s.past;
      const at::Tensor q = random({s.B, s.N, s.T, s.D}, c.type), k = random({s.B, s.G, S, s.D}, c.type), v = random({s.B, s.G, S, s.D}, c.type);
      at::Tensor starts;
      if (s.documents) starts = at::arange(s.T).div(53, "floor").mul(53).unsqueeze(0).expand({s.B, s.T}).contiguous();
      const KeyRanges ranges = causal_ranges(s.B, s.T, s.past, s.window, starts);
      const double scale = 1 / std::sqrt(static_cast<double>(s.D));
      const auto got = attention(q, k, v, ranges, scale), wanted = attention_reference(wide(q), wide(k), wide(v), ranges, scale);
      EXPECT_CLOSE(got.out_BTND, wanted.out_BTND, c) << s.T;
      EXPECT_CLOSE(got.log_sum_BNT, wanted.log_sum_BNT, c) << s.T;
      const at::Tensor dout = random(got.out_BTND.sizes(), c.type);
      const auto gradient = attention_backward(dout, q, k, v, got, ranges, scale);
      const auto wanted_gradient = attention_backward_reference(wide(dout), wide(q), wide(k), wide(v), wanted, ranges, scale);
      const Case looser{c.type, c.tolerance * 2};  // the stored output is rounded before the backward reads it
      if (s.T == 1) continue;  // one key: every gradient of q and k is zero
      EXPECT_CLOSE(gradient.dq_BNTD, wanted_gradient.dq_BNTD, looser) << s.T;
      EXPECT_CLOSE(gradient.dk_BGSD, wanted_gradient.dk_BGSD, looser) << s.T;
      EXPECT_CLOSE(gradient.dv_BGSD, wanted_gradient.dv_BGSD, looser) << s.T;
    }
}

TEST(Kernels, AttentionDefinitionAgreesWithAutograd) {
  at::manual_seed(8);
  const at::Tensor q = at::randn({2, 4, 9, 8}, at::kDouble).requires_grad_(), k = at::randn({2, 2, 9, 8}, at::kDouble).requires_grad_();
  const at::Tensor v = at::randn({2, 2, 9, 8}, at::kDouble).requires_grad_(), dout = at::randn({2, 9, 4, 8}, at::kDouble);
  const KeyRanges ranges = causal_ranges(2, 9, 0, 5, {});
  const auto out = attention_reference(q, k, v, ranges, 0.3);
  out.out_BTND.backward(dout);
  at::NoGradGuard off;
  const auto gradient = attention_backward_reference(dout, q, k, v, out, ranges, 0.3);
  EXPECT_LT(distance(gradient.dq_BNTD, q.grad()), 1e-13);
  EXPECT_LT(distance(gradient.dk_BGSD, k.grad()), 1e-13);
  EXPECT_LT(distance(gradient.dv_BGSD, v.grad()), 1e-13);
}

TEST(Kernels, CrossEntropy) {
  at::manual_seed(9);
  for (const Case& c : kCases) {
    const at::Tensor logits = random({21, 203}, c.type) * 8, logits64 = wide(logits);
    const auto got = softmax_statistics(logits), wanted = softmax_statistics_reference(logits64);
    EXPECT_CLOSE(got.largest_S, wanted.largest_S, c);
    EXPECT_CLOSE(got.sum_S, wanted.sum_S, c);
    at::Tensor labels = on_test_device(at::randint(-1, 204, {21}));
    labels[0] = 0;
    at::Tensor weight = on_test_device(at::rand({21}));
    weight[3] = 0;
    const at::Tensor log_sum = wanted.largest_S + at::log(wanted.sum_S);
    at::Tensor d = logits.clone(), d64 = logits64.clone();
    softmax_gradient_(d, log_sum.to(at::kFloat), labels, weight);
    softmax_gradient_reference_(d64, log_sum, labels, wide(weight));
    EXPECT_CLOSE(d, d64, c);
    EXPECT_EQ(d[3].abs().sum().item<float>(), 0);
  }
}

TEST(Kernels, Embedding) {
  at::manual_seed(10);
  for (const Case& c : kCases) {
    const at::Tensor table = random({11, 130}, c.type), dy = random({7, 130}, c.type);
    const at::Tensor ids = on_test_device(at::tensor(at::ArrayRef<int64_t>({0, 10, 3, -2, 3, 11, 3})));
    const at::Tensor rows = gather_rows(table, ids);
    EXPECT_TRUE(at::equal(rows[1], table[10]));
    EXPECT_EQ(rows[3].abs().sum().item<float>() + rows[5].abs().sum().item<float>(), 0);
    at::Tensor gradient = zeros({11, 130});
    add_rows(gradient, ids, dy);
    EXPECT_CLOSE(gradient[3], wide(dy[2]) + wide(dy[4]) + wide(dy[6]), c);
    EXPECT_EQ(gradient[1].abs().sum().item<float>(), 0);
    EXPECT_CLOSE(gradient.sum(), wide(dy).sum() - wide(dy[3]).sum() - wide(dy[5]).sum(), (Case{c.type, 1e-4}));
  }
}

}  // namespace
}  // namespace ponte
