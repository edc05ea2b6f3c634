// The chunked gated delta rule, its step and its backward against the recurrence that defines it, differentiated by autograd in fp64: lengths around
// the chunk, head ratios, packed documents, decays from nothing to everything.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "kernels/causal_conv1d.h"
#include "kernels/gate_heads.h"
#include "kernels/gated_delta.h"
#include "kernels/gated_rms_norm.h"
#include "kernels/vector.h"

namespace ponte {
namespace {

double distance(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.to(at::kDouble), y = b.to(at::kDouble);
  return ((x - y).norm() / (y.norm() + 1e-30)).item<double>();
}
at::Tensor wide(const at::Tensor& t) { return t.defined() ? t.to(at::kDouble) : t; }

enum class Decay { usual, strong, none, mixed, same_keys };

struct DeltaCase {
  int64_t B, T, K, R, D, V;
  bool packed = false;
  Decay decay = Decay::usual;
};

void PrintTo(const DeltaCase& c, std::ostream* out) {
  *out << c.B << "x" << c.T << " heads " << c.K << "x" << c.R << " dims " << c.D << " " << c.V << (c.packed ? " packed" : "") << " decay "
       << static_cast<int>(c.decay);
}

// Documents of lengths 1, 2, 5, 61, 64, 65, ... one after the other.
at::Tensor document_starts(int64_t B, int64_t T) {
  const int64_t lengths[] = {5, 1, 61, 64, 2, 65, 7, 130};
  at::Tensor starts = at::zeros({B, T}, at::kLong);
  for (int64_t b = 0; b < B; ++b)
    for (int64_t t = 0, start = 0, next = b; t < T; ++t) {
      if (t - start == lengths[next % 8]) start = t, ++next;
      starts[b][t] = start;
    }
  return starts;
}

GatedDeltaInputs random_inputs(const DeltaCase& c, at::ScalarType type) {
  const int64_t S = c.B * c.T, N = c.K * c.R;
  at::Tensor qkv = at::randn({S, 2 * c.K * c.D + N * c.V}, at::kDouble), gates = at::randn({S, 2 * N + 3}, at::kDouble);
  at::Tensor A_log = at::log(at::rand({N}, at::kDouble) * 16), dt_bias = at::randn({N}, at::kDouble);
  if (c.decay == Decay::strong) A_log.fill_(3), dt_bias.fill_(8);
  if (c.decay == Decay::none) A_log.fill_(-14);
  if (c.decay == Decay::mixed) A_log.fill_(2), gates.mul_(8);
  if (c.decay == Decay::same_keys) {  // every key nearly the same and beta nearly one: what is solved is far from the identity
    A_log.fill_(-14);
    qkv.narrow(1, c.K * c.D, c.K * c.D).mul_(0.05).add_(1);
    gates.narrow(1, 1, N).add_(6);
  }
  gates = gates.to(type);
  return {c.B, c.T, c.K, c.D, c.V, qkv.to(type), gates.narrow(1, 1, N), gates.narrow(1, 2 + N, N), A_log.to(type == at::kDouble ? at::kDouble : at::kFloat),
          dt_bias.to(type == at::kDouble ? at::kDouble : at::kFloat), c.packed ? document_starts(c.B, c.T) : at::Tensor(), {}};
}

GatedDeltaInputs widened(GatedDeltaInputs in) {
  for (at::Tensor* t : {&in.qkv_SC, &in.beta_SN, &in.alpha_SN, &in.A_log_N, &in.dt_bias_N, &in.state_BNDV}) *t = wide(*t);
  return in;
}

class GatedDelta : public testing::TestWithParam<DeltaCase> {};

TEST_P(GatedDelta, ForwardAndEveryGradientEqualTheRecurrence) {
  const DeltaCase& c = GetParam();
  // Equal keys lose digits to cancellation in fp32 whatever the order.
  const double hard = c.decay == Decay::same_keys ? 10 : 1;
  for (const auto& [type, tolerance] : std::vector<std::pair<at::ScalarType, double>>{{at::kDouble, 1e-12}, {at::kFloat, 1e-5 * hard}, {at::kBFloat16, 4e-3}}) {
    at::manual_seed(11);
    const GatedDeltaInputs in = random_inputs(c, type);
    const at::Tensor dout = at::randn({c.B * c.T, c.K * c.R * c.V}, at::kDouble).to(type);
    GatedDeltaInputs exact = widened(in);
    for (at::Tensor* t : {&exact.qkv_SC, &exact.beta_SN, &exact.alpha_SN, &exact.A_log_N, &exact.dt_bias_N}) *t = t->detach().clone().requires_grad_();
    const GatedDeltaResult wanted = gated_delta_reference(exact);
    torch::autograd::backward({wanted.out_SV}, {wide(dout)});
    at::NoGradGuard off;
    const GatedDeltaResult got = gated_delta(in);
    EXPECT_LE(distance(got.out_SV, wanted.out_SV), tolerance) << at::toString(type);
    EXPECT_LE(distance(got.state_BNDV, wanted.state_BNDV), tolerance) << at::toString(type);
    const at::Tensor dgates = at::zeros({c.B * c.T, 2 * c.K * c.R + 3}, in.qkv_SC.options());
    GatedDeltaGradients d{at::empty_like(in.qkv_SC), dgates.narrow(1, 1, c.K * c.R), dgates.narrow(1, 2 + c.K * c.R, c.K * c.R), at::zeros_like(in.A_log_N),
                          at::zeros_like(in.dt_bias_N)};
    gated_delta_backward(dout, in, d);
    const int64_t keys = c.K * c.D;
    const auto expect = [&](const char* name, const at::Tensor& a, const at::Tensor& b) {
      EXPECT_LE(distance(a, b), tolerance) << name << " " << at::toString(type);
    };
    expect("dq", d.dqkv_SC.narrow(1, 0, keys), exact.qkv_SC.grad().narrow(1, 0, keys));
    expect("dk", d.dqkv_SC.narrow(1, keys, keys), exact.qkv_SC.grad().narrow(1, keys, keys));
    expect("dv", d.dqkv_SC.narrow(1, 2 * keys, c.K * c.R * c.V), exact.qkv_SC.grad().narrow(1, 2 * keys, c.K * c.R * c.V));
    expect("dbeta", d.dbeta_SN, exact.beta_SN.grad());
    if (c.T == 1) continue;  // no state to decay
    expect("dalpha", d.dalpha_SN, exact.alpha_SN.grad());
    expect("dA_log", d.dA_log_N, exact.A_log_N.grad());
    expect("ddt_bias", d.ddt_bias_N, exact.dt_bias_N.grad());
  }
}

std::vector<DeltaCase> delta_cases() {
  std::vector<DeltaCase> cases;
  for (const int64_t T : {1, 2, 63, 64, 65, 127, 200})
    for (const bool packed : {false, true}) cases.push_back({2, T, 2, 2, 16, 16, packed});
  for (const int64_t R : {1, 2, 4}) cases.push_back({1, 150, 2, R, 24, 40, R != 2});
  for (const Decay decay : {Decay::strong, Decay::none, Decay::mixed, Decay::same_keys})
    for (const bool packed : {false, true}) cases.push_back({2, 200, 1, 2, 32, 16, packed, decay});
  cases.push_back({1, 100, 3, 1, 12, 20});
  cases.push_back({1, 130, 1, 1, 128, 128, true});
  return cases;
}
INSTANTIATE_TEST_SUITE_P(Cases, GatedDelta, testing::ValuesIn(delta_cases()));

// A state given and a gradient of the last one, with documents that began before the first token: what chunks of a spread row are.
TEST(GatedDelta, GradientsGoThroughStates) {
  for (const bool packed : {false, true}) {
    at::manual_seed(13);
    const DeltaCase c{2, 150, 2, 2, 16, 24, packed};
    GatedDeltaInputs in = random_inputs(c, at::kDouble);
    in.state_BNDV = at::randn({c.B, c.K * c.R, c.D, c.V}, at::kDouble);
    if (packed) in.document_starts_BT = (document_starts(c.B, c.T + 3).narrow(1, 3, c.T) - 3).contiguous();  // the first began three tokens before
    GatedDeltaInputs exact = in;
    for (at::Tensor* t : {&exact.qkv_SC, &exact.beta_SN, &exact.alpha_SN, &exact.A_log_N, &exact.dt_bias_N, &exact.state_BNDV})
      *t = t->detach().clone().requires_grad_();
    const GatedDeltaResult wanted = gated_delta_reference(exact);
    const at::Tensor dout = at::randn(wanted.out_SV.sizes(), at::kDouble), dstate = at::randn(wanted.state_BNDV.sizes(), at::kDouble);
    torch::autograd::backward({wanted.out_SV, wanted.state_BNDV}, {dout, dstate});
    at::NoGradGuard off;
    EXPECT_LE(distance(gated_delta(in).state_BNDV, wanted.state_BNDV), 1e-12);
    GatedDeltaGradients d{at::empty_like(in.qkv_SC), at::empty_like(in.beta_SN), at::empty_like(in.alpha_SN), at::zeros_like(in.A_log_N),
                          at::zeros_like(in.dt_bias_N), dstate.clone()};
    gated_delta_backward(dout, in, d);
    const std::vector<std::pair<at::Tensor, at::Tensor>> pairs = {{d.dqkv_SC, exact.qkv_SC}, {d.dbeta_SN, exact.beta_SN}, {d.dalpha_SN, exact.alpha_SN},
                                                                  {d.dA_log_N, exact.A_log_N}, {d.ddt_bias_N, exact.dt_bias_N},
                                                                  {d.dstate_BNDV, exact.state_BNDV}};
    for (const auto& [mine, leaf] : pairs) EXPECT_LE(distance(mine, leaf.grad()), 1e-12) << packed;
  }
}

TEST(GatedDelta, GoesOnFromAState) {
  // 100 tokens at once, and the same in pieces: chunks, then single tokens, then a few.
  for (const auto& [type, tolerance] : std::vector<std::pair<at::ScalarType, double>>{{at::kDouble, 1e-12}, {at::kFloat, 1e-5}}) {
    at::manual_seed(12);
    const DeltaCase c{2, 100, 2, 2, 16, 24};
    const GatedDeltaInputs in = random_inputs(c, type);
    const GatedDeltaResult whole = gated_delta_reference(widened(in));
    std::vector<at::Tensor> out;
    at::Tensor state;
    int64_t from = 0;
    for (const int64_t count : {70, 1, 1, 5, 23}) {
      const auto piece = [&](const at::Tensor& t) { return t.view({c.B, c.T, -1}).narrow(1, from, count).reshape({c.B * count, -1}); };
      const GatedDeltaResult result = gated_delta({c.B, count, c.K, c.D, c.V, piece(in.qkv_SC), piece(in.beta_SN.contiguous()),
                                                   piece(in.alpha_SN.contiguous()), in.A_log_N, in.dt_bias_N, {}, state});
      out.push_back(result.out_SV.view({c.B, count, -1}));
      state = result.state_BNDV;
      from += count;
    }
    EXPECT_LE(distance(at::cat(out, 1).flatten(0, 1), whole.out_SV), tolerance);
    EXPECT_LE(distance(state, whole.state_BNDV), tolerance);
  }
}

TEST(GatedDelta, EveryInstructionSetAgrees) {
  at::manual_seed(13);
  const GatedDeltaInputs in = random_inputs({1, 90, 1, 2, 24, 40}, at::kFloat);
  const GatedDeltaResult wanted = gated_delta_reference(widened(in));
  for (const char* name : {"x86-64", "x86-64-v3", "x86-64-v4"}) {
    const VectorTables* tables = vector_tables(name);
    if (!tables) continue;
    const float* qkv = in.qkv_SC.const_data_ptr<float>();
    const DeltaHead<float, float> head{qkv, qkv + 24, qkv + 48, 128, in.beta_SN.const_data_ptr<float>(), in.alpha_SN.const_data_ptr<float>(),
                                       in.beta_SN.stride(0), in.A_log_N.const_data_ptr<float>(), in.dt_bias_N.const_data_ptr<float>(), 90, 2, 24, 40,
                                       nullptr, false};
    std::vector<float> scratch(static_cast<size_t>(delta_scratch(2, 24, 40)));
    at::Tensor out = at::empty({90, 80}), state = at::zeros({1, 2, 24, 40});
    tables->delta_f32->forward(head, tables->delta_f32->product, scratch.data(), out.mutable_data_ptr<float>(), 80, state.mutable_data_ptr<float>(),
                               nullptr);
    EXPECT_LE(distance(out, wanted.out_SV), 1e-5) << name;
    EXPECT_LE(distance(state, wanted.state_BNDV), 1e-5) << name;
  }
}

TEST(CausalConv1d, EqualsTheDefinitionAndItsGradients) {
  for (const auto& [type, tolerance] : std::vector<std::pair<at::ScalarType, double>>{{at::kDouble, 1e-13}, {at::kFloat, 2e-6}, {at::kBFloat16, 4e-3}})
    for (const auto& [B, T, C, W] :
         std::vector<std::array<int64_t, 4>>{{1, 1, 5, 4}, {2, 3, 130, 4}, {2, 70, 300, 4}, {1, 90, 20, 2}, {1, 9, 7, 1}, {1, 70, 33, 6}})
      for (const bool packed : {false, true}) {
        at::manual_seed(14);
        const at::Tensor rows = at::randn({B * T, C + 9}, at::kDouble).to(type), x = rows.narrow(1, 4, C), dy = at::randn({B * T, C}, at::kDouble).to(type);
        const ConvolutionInputs in{B, T, x, at::randn({C, 1, W}, at::kDouble).to(type), packed ? document_starts(B, T) : at::Tensor(), {}};
        ConvolutionInputs exact = in;
        exact.x_SC = wide(x).contiguous().requires_grad_();
        exact.weight_C1W = wide(in.weight_C1W).requires_grad_();
        const at::Tensor wanted = causal_conv1d_reference(exact);
        torch::autograd::backward({wanted}, {wide(dy)});
        at::NoGradGuard off;
        EXPECT_LE(distance(causal_conv1d(in), wanted), tolerance) << T << " " << C << " " << at::toString(type);
        const at::Tensor drows = at::zeros_like(rows);
        at::Tensor dweight = at::ones({C, 1, W}, type == at::kDouble ? at::kDouble : at::kFloat);
        causal_conv1d_backward(dy, in, drows.narrow(1, 4, C), dweight);
        EXPECT_LE(distance(drows.narrow(1, 4, C), exact.x_SC.grad()), tolerance) << T << " " << C << " " << at::toString(type);
        EXPECT_LE(distance(wide(dweight) - 1, exact.weight_C1W.grad()), tolerance * 2) << T << " " << C << " " << at::toString(type);
        EXPECT_EQ(drows.narrow(1, 0, 4).abs().sum().item<double>(), 0);
      }
}

TEST(CausalConv1d, DefinitionIsTorchs) {
  at::manual_seed(15);
  const at::Tensor x = at::randn({2, 11, 6}, at::kDouble), weight = at::randn({6, 1, 4}, at::kDouble);
  const at::Tensor wanted = at::silu(at::conv1d(x.transpose(1, 2), weight, {}, 1, 3, 1, 6).narrow(2, 0, 11)).transpose(1, 2).reshape({22, 6});
  EXPECT_LE(distance(causal_conv1d_reference({2, 11, x.view({22, 6}), weight, {}, {}}), wanted), 1e-14);
}

TEST(CausalConv1d, GoesOnFromItsHistory) {
  at::manual_seed(16);
  for (const at::ScalarType type : {at::kFloat, at::kDouble}) {
    const at::Tensor x = at::randn({2, 20, 40}, type), weight = at::randn({40, 1, 4}, type);
    const at::Tensor whole = causal_conv1d({2, 20, x.reshape({40, 40}), weight, {}, {}}).view({2, 20, 40});
    for (const int64_t cut : {3, 4, 19}) {
      const at::Tensor rest = x.narrow(1, cut, 20 - cut).reshape({-1, 40});
      const at::Tensor got = causal_conv1d({2, 20 - cut, rest, weight, {}, x.narrow(1, cut - 3, 3)}).view({2, -1, 40});
      EXPECT_LE(distance(got, whole.narrow(1, cut, 20 - cut)), 1e-6) << cut;
    }
  }
}

TEST(GatedRmsNorm, EqualsTheDefinitionAndItsGradients) {
  for (const auto& [type, tolerance] : std::vector<std::pair<at::ScalarType, double>>{{at::kDouble, 1e-13}, {at::kFloat, 2e-6}, {at::kBFloat16, 4e-3}})
    for (const auto& [S, N, D] : std::vector<std::array<int64_t, 3>>{{1, 1, 8}, {37, 3, 20}, {64, 2, 128}})
      for (const double offset : {0.0, 1.0}) {
        at::manual_seed(17);
        const at::Tensor rows = at::randn({S, N * D + 7}, at::kDouble).to(type), z = rows.narrow(1, 3, N * D), x = at::randn({S, N * D}, at::kDouble).to(type);
        const at::Tensor weight = at::randn({D}, at::kDouble).to(type), dy = at::randn({S, N * D}, at::kDouble).to(type);
        const NormOptions options{1e-6, offset};
        const at::Tensor x64 = wide(x).requires_grad_(), z64 = wide(z).contiguous().requires_grad_(), weight64 = wide(weight).requires_grad_();
        const at::Tensor wanted = gated_rms_norm_reference(x64, z64, weight64, options).y_SV;
        torch::autograd::backward({wanted}, {wide(dy)});
        at::NoGradGuard off;
        const GatedNormResult got = gated_rms_norm(x, z, weight, options);
        EXPECT_LE(distance(got.y_SV, wanted), tolerance);
        const at::Tensor drows = at::zeros_like(rows);
        at::Tensor dweight = at::ones({D}, got.rstd_SN.options());
        const at::Tensor dx = gated_rms_norm_backward(dy, x, z, weight, got.rstd_SN, options, drows.narrow(1, 3, N * D), dweight);
        EXPECT_LE(distance(dx, x64.grad()), tolerance) << at::toString(type);
        EXPECT_LE(distance(drows.narrow(1, 3, N * D), z64.grad()), tolerance) << at::toString(type);
        EXPECT_LE(distance(wide(dweight) - 1, weight64.grad()), tolerance) << at::toString(type);
      }
}

TEST(GateHeads, EqualsTheDefinitionAndItsGradients) {
  const HeadLayout layout{3, 2, 20, OutputGate::per_head};
  const int64_t width = 3 * 6 * 20;
  for (const auto& [type, tolerance] : std::vector<std::pair<at::ScalarType, double>>{{at::kDouble, 1e-14}, {at::kFloat, 2e-6}, {at::kBFloat16, 4e-3}}) {
    at::manual_seed(18);
    const auto random = [&type](int64_t columns) { return at::randn({9, columns}, at::kDouble).to(type); };
    const at::Tensor qkv = random(width), out = random(120), dy = random(120);
    const at::Tensor qkv64 = wide(qkv).requires_grad_(), out64 = wide(out).requires_grad_();
    const at::Tensor wanted = gate_heads_reference(out64, qkv64, layout);
    torch::autograd::backward({wanted}, {wide(dy)});
    at::NoGradGuard off;
    EXPECT_LE(distance(gate_heads(out, qkv, layout), wanted), tolerance);
    at::Tensor dqkv = at::zeros_like(qkv);
    EXPECT_LE(distance(gate_heads_backward(dy, out, qkv, layout, dqkv), out64.grad()), tolerance);
    EXPECT_LE(distance(dqkv, qkv64.grad()), tolerance);
  }
}

}  // namespace
}  // namespace ponte
