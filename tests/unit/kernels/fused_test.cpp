// What runs on a card, without one. ATen's fused CUDA operators are given processor implementations here, written from their documentation as plain
// mathematics, so that everything around them (shapes, layouts, documents, windows, which half of a pair goes where) is tested; operators that ATen has on a
// processor run as they are.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/library.h>

#include "kernels/device.h"
#include "kernels/fused_attention.h"
#include "kernels/gated_delta_chunked.h"
#include "kernels/grouped_gemm.h"
#include "kernels/permute.h"

namespace ponte {
namespace {

using Optional = const std::optional<at::Tensor>&;

// One document: queries are the last of the keys; each sees itself and `left` before it (-1: all).
at::Tensor flash_scores(const at::Tensor& q_TND, const at::Tensor& k_SGD, double scale, int64_t left) {
  const int64_t T = q_TND.size(0), S = k_SGD.size(0);
  const at::Tensor k = k_SGD.repeat_interleave(q_TND.size(1) / k_SGD.size(1), 1);
  const at::Tensor last = at::arange(T).unsqueeze(1) + (S - T), key = at::arange(S).unsqueeze(0);
  at::Tensor hidden = key > last;
  if (left >= 0) hidden = at::logical_or(hidden, key < last - left);
  return at::einsum("tnd,snd->nts", {q_TND, k}).mul(scale).masked_fill(hidden, -INFINITY);
}

// body(queries, keys) for each document: row of the batch (-1: flattened) and its tokens.
template <class Body>
void for_documents(const at::Tensor& q, Optional cut, Body body) {
  if (!cut.has_value()) {
    for (int64_t b = 0; b < q.size(0); ++b) body([b](const at::Tensor& t) { return t[b]; }, b, 0);
    return;
  }
  EXPECT_EQ(cut->scalar_type(), at::kInt);
  for (int64_t i = 0; i + 1 < cut->size(0); ++i) {
    const int64_t from = (*cut)[i].item<int64_t>(), to = (*cut)[i + 1].item<int64_t>();
    body([from, to](const at::Tensor& t) { return t.narrow(0, from, to - from); }, -1, from);
  }
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> flash_forward(
    const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, Optional cut_q, Optional, c10::SymInt longest_q, c10::SymInt, double, bool causal, bool,
    std::optional<double> scale, std::optional<c10::SymInt> left, std::optional<c10::SymInt>, Optional, Optional, Optional, std::optional<int64_t>) {
  EXPECT_TRUE(causal);
  EXPECT_EQ(q.stride(-1), 1);
  const at::Tensor wq = q.to(at::kDouble), wk = k.to(at::kDouble), wv = v.to(at::kDouble), out = at::empty_like(wq);
  const int64_t N = q.size(-2);
  const at::Tensor log_sum = at::empty(cut_q.has_value() ? std::vector<int64_t>{N, q.size(0)} : std::vector<int64_t>{q.size(0), N, q.size(1)}, at::kFloat);
  const int64_t window = left ? left->expect_int() : -1;
  for_documents(q, cut_q, [&](auto part, int64_t row, int64_t from) {
    const at::Tensor scores = flash_scores(part(wq), part(wk), *scale, window), sums = at::logsumexp(scores, -1);
    EXPECT_LE(scores.size(1), longest_q.expect_int());
    const at::Tensor values = part(wv).repeat_interleave(N / v.size(-2), 1);
    part(out).copy_(at::einsum("nts,snd->tnd", {at::softmax(scores, -1), values}));
    (row >= 0 ? log_sum[row] : log_sum.narrow(1, from, sums.size(1))).copy_(sums);
  });
  return {out.to(q.scalar_type()), log_sum, at::empty({2}, at::kLong), at::empty({}, at::kLong), at::empty({0}, q.options())};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> flash_backward(const at::Tensor& dout, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                                              const at::Tensor& out, const at::Tensor& log_sum, const at::Tensor& cut_q, const at::Tensor&,
                                                              c10::SymInt, c10::SymInt, double, bool, const at::Tensor&, const at::Tensor&,
                                                              std::optional<double> scale, std::optional<c10::SymInt> left, std::optional<c10::SymInt>) {
  const auto wide = [](const at::Tensor& t) { return t.to(at::kDouble); };
  const at::Tensor dq = at::empty_like(wide(q)), dk = at::empty_like(wide(k)), dv = at::empty_like(wide(v));
  const int64_t repeat = q.size(-2) / k.size(-2);
  const int64_t window = left ? left->expect_int() : -1;
  for_documents(q, cut_q.defined() ? std::optional(cut_q) : std::nullopt, [&](auto part, int64_t row, int64_t from) {
    const at::Tensor keys = part(wide(k)).repeat_interleave(repeat, 1), values = part(wide(v)).repeat_interleave(repeat, 1), d = part(wide(dout));
    const at::Tensor scores = flash_scores(part(wide(q)), part(wide(k)), *scale, window);
    const at::Tensor sums = row >= 0 ? log_sum[row] : log_sum.narrow(1, from, scores.size(1));
    const at::Tensor p = at::exp(scores - wide(sums).unsqueeze(-1));
    const at::Tensor own = (d * part(wide(out))).sum(-1).t().unsqueeze(-1);
    const at::Tensor ds = p * (at::einsum("tnd,snd->nts", {d, values}) - own) * *scale;
    const auto grouped = [&](const at::Tensor& t) { return t.unflatten(1, {-1, repeat}).sum(2); };
    part(dq).copy_(at::einsum("nts,snd->tnd", {ds, keys}));
    part(dk).copy_(grouped(at::einsum("nts,tnd->snd", {ds, part(wide(q))})));
    part(dv).copy_(grouped(at::einsum("nts,tnd->snd", {p, d})));
  });
  return {dq.to(q.scalar_type()), dk.to(k.scalar_type()), dv.to(v.scalar_type())};
}

at::Tensor bthd(const at::Tensor& t) { return t.transpose(1, 2); }

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, c10::SymInt, c10::SymInt, at::Tensor, at::Tensor, at::Tensor> cudnn_forward(
    const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, Optional, bool, double, bool causal, bool, std::optional<double> scale) {
  const auto [out, log_sum, a, b, c] =
      flash_forward(bthd(q), bthd(k), bthd(v), std::nullopt, std::nullopt, q.size(2), k.size(2), 0, causal, false, scale, std::nullopt, std::nullopt,
                    std::nullopt, std::nullopt, std::nullopt, std::nullopt);
  return {bthd(out), log_sum.unsqueeze(-1), at::Tensor(), at::Tensor(), q.size(2), k.size(2), a, b, c};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> cudnn_backward(const at::Tensor& dout, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                                              const at::Tensor& out, const at::Tensor& log_sum, const at::Tensor&, const at::Tensor&,
                                                              const at::Tensor&, const at::Tensor&, const at::Tensor&, c10::SymInt, c10::SymInt, double,
                                                              bool, std::optional<double> scale) {
  EXPECT_EQ(log_sum.dim(), 4);
  const at::Tensor none;
  const auto [dq, dk, dv] = flash_backward(bthd(dout), bthd(q), bthd(k), bthd(v), bthd(out), log_sum.squeeze(-1), none, none, q.size(2), k.size(2), 0, true,
                                           none, none, scale, std::nullopt, std::nullopt);
  return {bthd(dq), bthd(dk), bthd(dv)};
}

TORCH_LIBRARY_IMPL(aten, CPU, m) {
  m.impl("_flash_attention_forward", flash_forward);
  m.impl("_flash_attention_backward", flash_backward);
  m.impl("_scaled_dot_product_cudnn_attention", cudnn_forward);
  m.impl("_scaled_dot_product_cudnn_attention_backward", cudnn_backward);
}

double distance(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.to(at::kDouble), y = b.to(at::kDouble);
  return ((x - y).norm() / (y.norm() + 1e-30)).item<double>();
}

struct AttentionCase {
  int64_t B, N, G, T, past;
  std::optional<int64_t> window;
  bool documents;
};

TEST(FusedAttention, ReachesAtenAsItsDefinitionSays) {
  at::manual_seed(7);
  const AttentionCase cases[] = {{2, 4, 2, 33, 0, {}, false}, {1, 2, 2, 40, 0, 7, false},  {2, 4, 2, 60, 0, {}, true},
                                 {2, 6, 3, 20, 15, {}, false}, {2, 2, 1, 50, 0, 9, true}, {3, 4, 2, 1, 20, {}, false}};
  for (const AttentionCase& c : cases) {
    constexpr int64_t D = 16;
    const at::Tensor q = at::randn({c.B, c.N, c.T, D}), k = at::randn({c.B, c.G, c.T + c.past, D}), v = at::randn(k.sizes());
    const at::Tensor dout = at::randn({c.B, c.T, c.N, D});
    at::Tensor starts;
    if (c.documents) starts = (at::arange(c.B * c.T).view({c.B, c.T}) % c.T).div(13, "floor").mul(13);
    const KeyRanges ranges = causal_ranges(c.B, c.T, c.past, c.window, starts);
    const auto wanted = attention_reference(q, k, v, ranges, 0.3), got = flash_attention(q, k, v, ranges, 0.3);
    EXPECT_LT(distance(got.out_BTND, wanted.out_BTND), 1e-6);
    EXPECT_LT(distance(got.log_sum_BNT, wanted.log_sum_BNT), 1e-6);
    const auto d = attention_backward_reference(dout, q, k, v, wanted, ranges, 0.3), d_got = flash_attention_backward(dout, q, k, v, got, ranges, 0.3);
    EXPECT_LT(distance(d_got.dq_BNTD, d.dq_BNTD), 1e-5);
    EXPECT_LT(distance(d_got.dk_BGSD, d.dk_BGSD), 1e-5);
    EXPECT_LT(distance(d_got.dv_BGSD, d.dv_BGSD), 1e-5);
    if (c.window || c.documents || c.past) continue;
    const auto other = cudnn_attention(q, k, v, 0.3);
    EXPECT_LT(distance(other.out_BTND, wanted.out_BTND), 1e-6);
    EXPECT_LT(distance(other.log_sum_BNT, wanted.log_sum_BNT), 1e-6);
    const auto d_other = cudnn_attention_backward(dout, q, k, v, other, 0.3);
    EXPECT_LT(distance(d_other.dq_BNTD, d.dq_BNTD), 1e-5);
    EXPECT_LT(distance(d_other.dk_BGSD, d.dk_BGSD), 1e-5);
    EXPECT_LT(distance(d_other.dv_BGSD, d.dv_BGSD), 1e-5);
  }
}

TEST(FusedAttention, IsForCardsAlone) {
  const at::Tensor q = at::randn({1, 2, 8, 16}).to(at::kBFloat16);
  EXPECT_EQ(fused_attention_for(q, q, q, causal_ranges(1, 8, 0, {}, {}), 1), FusedAttention::none);
}

struct DeltaCase {
  int64_t B, T, K, R;
  bool documents, state;
};

TEST(GatedDeltaChunked, EqualsTheRecurrence) {
  const DeltaCase cases[] = {{1, 1, 1, 1, false, false}, {2, 64, 2, 2, false, false}, {2, 150, 1, 3, false, true},
                             {2, 200, 2, 1, true, false}, {1, 63, 1, 1, true, false}, {2, 100, 1, 2, true, true}};
  for (const auto& [type, tolerance] : {std::pair{at::kDouble, 1e-12}, std::pair{at::kFloat, 2e-5}})
    for (const DeltaCase& c : cases) {
      at::manual_seed(3);
      const int64_t D = 8, V = 12, N = c.K * c.R, S = c.B * c.T;
      const at::Tensor gates = at::randn({S, 2 * N}).to(type);
      GatedDeltaInputs in{c.B, c.T, c.K, D, V, at::randn({S, 2 * c.K * D + N * V}).to(type), gates.narrow(1, 0, N), gates.narrow(1, N, N),
                          at::log(at::rand({N}) * 16).to(type), at::randn({N}).to(type), {}, {}};
      if (c.documents) in.document_starts_BT = at::arange(c.T).div(37, "floor").mul(37).unsqueeze(0).expand({c.B, c.T}).contiguous();
      if (c.documents && c.state) in.document_starts_BT[0].narrow(0, 0, 37).fill_(-5);  // one row's state is its document's, the other's is not
      if (c.state) in.state_BNDV = at::randn({c.B, N, D, V}).to(type);
      const auto got = gated_delta_chunked(in), wanted = gated_delta_reference(in);
      EXPECT_LT(distance(got.out_SV, wanted.out_SV), tolerance) << c.T;
      EXPECT_LT(distance(got.state_BNDV, wanted.state_BNDV), tolerance) << c.T;
      const at::Tensor dout = at::randn(got.out_SV.sizes()).to(type), dstate = at::randn(got.state_BNDV.sizes()).to(type);
      const auto gradients = [&](auto backward) {
        GatedDeltaGradients d{at::empty_like(in.qkv_SC), at::empty({S, N}, in.qkv_SC.options()), at::empty({S, N}, in.qkv_SC.options()),
                              at::ones({N}, in.qkv_SC.options()), at::ones({N}, in.qkv_SC.options()), {}};
        if (c.state) d.dstate_BNDV = dstate.clone();
        backward(dout, in, d);
        return d;
      };
      const auto d = gradients(gated_delta_chunked_backward), d_wanted = gradients(gated_delta_backward);
      EXPECT_LT(distance(d.dqkv_SC, d_wanted.dqkv_SC), 4 * tolerance) << c.T;
      EXPECT_LT(distance(d.dbeta_SN, d_wanted.dbeta_SN), 4 * tolerance) << c.T;
      EXPECT_LT(distance(d.dalpha_SN, d_wanted.dalpha_SN), 20 * tolerance) << c.T;
      EXPECT_LT(distance(d.dA_log_N, d_wanted.dA_log_N), 20 * tolerance) << c.T;
      EXPECT_LT(distance(d.ddt_bias_N, d_wanted.ddt_bias_N), 20 * tolerance) << c.T;
      if (c.state) {
        EXPECT_LT(distance(d.dstate_BNDV, d_wanted.dstate_BNDV), 20 * tolerance) << c.T;
      }
    }
}

TEST(Permute, OnADeviceRowsAreTheSameWithThoseOfNobodyBehind) {
  at::manual_seed(5);
  constexpr int64_t E = 5;
  const at::Tensor experts = at::randint(-1, E, {37, 3}, at::kLong);
  const Permutation host = permutation_of(experts, E), device = permutation_on_device(experts, E);
  const int64_t P = host.token_P.size(0);
  EXPECT_TRUE(at::equal(device.rows.ends_E.to(at::kLong), at::tensor(std::vector<int64_t>(host.rows.first.begin() + 1, host.rows.first.end()))));
  EXPECT_TRUE(at::equal(device.row_SK, host.row_SK));
  EXPECT_TRUE(at::equal(device.pair_P.narrow(0, 0, P), host.pair_P));
  EXPECT_TRUE(at::equal(device.token_P.narrow(0, 0, P), host.token_P));
  const Permutation known = known_to_host(device, 0);
  EXPECT_EQ(known.rows.first, host.rows.first);
  EXPECT_TRUE(at::equal(known.pair_P, host.pair_P));
  EXPECT_TRUE(at::equal(known.token_P, host.token_P));
}

TEST(GroupedGemm, ByAtenEqualsExpertByExpert) {
  at::manual_seed(6);
  constexpr int64_t E = 4, O = 16, I = 24, P = 21;  // the grouped product wants rows of 16 bytes
  for (const auto& [type, tolerance] : {std::pair{at::kFloat, 1e-6}, std::pair{at::kBFloat16, 1e-2}})
    for (const bool adjacent : {true, false}) {
      const at::Tensor all = at::randn({E, O, I}).to(type), x = at::randn({P, I}).to(type), dy = at::randn({P, O}).to(type);
      std::vector<at::Tensor> weights;
      for (int64_t e = 0; e < E; ++e) weights.push_back(adjacent ? all[e] : all[e].clone());
      const ExpertRows host(std::vector<int64_t>{0, 5, 5, 14, P - 2});  // the last two rows are nobody's
      ExpertRows device;
      device.ends_E = at::tensor(std::vector<int32_t>{5, 5, 14, P - 2});
      const auto used = [&](const at::Tensor& t) { return t.narrow(0, 0, P - 2); };
      EXPECT_LT(distance(used(grouped_times_transposed(x, weights, device)), used(grouped_times_transposed(x, weights, host))), tolerance);
      EXPECT_LT(distance(used(grouped_times(dy, weights, device)), used(grouped_times(dy, weights, host))), tolerance);
      std::vector<at::Tensor> a(E), b(E);
      for (int64_t e = 0; e + 1 < E; ++e) a[e] = at::ones({O, I}), b[e] = at::ones({O, I});  // the last expert is frozen
      grouped_add_transposed_product(a, dy, x, device);
      grouped_add_transposed_product(b, dy, x, host);
      for (int64_t e = 0; e + 1 < E; ++e) EXPECT_LT(distance(a[e], b[e]), tolerance);
      ExpertRows none(std::vector<int64_t>(E + 1, 0));  // a rank whose experts nobody chose
      none.ends_E = at::zeros({E}, at::kInt);
      EXPECT_EQ(grouped_times_transposed(x.narrow(0, 0, 0), weights, none).sizes(), (std::vector<int64_t>{0, O}));
    }
}

TEST(Device, IsChosenByNameAndRefusedInWords) {
  EXPECT_EQ(choose_device("cpu", 3), at::Device(at::kCPU));
  EXPECT_THROW(choose_device("gpu"), std::exception);
  EXPECT_THROW(choose_device("cuda:x"), std::exception);
  if (!at::hasCUDA()) {
    EXPECT_EQ(choose_device("auto", 3), at::Device(at::kCPU));
    EXPECT_THROW(choose_device("cuda"), std::exception);
  }
}

TEST(StagingBuffer, FillsInPlaceOrByWholeRows) {
  const at::Tensor same = at::zeros({5, 3}, at::kFloat), wider = at::zeros({5, 3}, at::kDouble);
  const auto rows_of_numbers = [](int64_t first, int64_t rows, std::span<std::byte> out) {
    ASSERT_EQ(out.size(), static_cast<size_t>(rows * 3) * sizeof(float));
    for (int64_t i = 0; i < rows * 3; ++i) reinterpret_cast<float*>(out.data())[i] = static_cast<float>(first * 3 + i);
  };
  StagingBuffer buffer(2 * 3 * sizeof(float) + 1);
  buffer.fill(same, at::kFloat, rows_of_numbers);
  buffer.fill(wider, at::kFloat, rows_of_numbers);  // two rows at a time, then one
  EXPECT_TRUE(at::equal(same, at::arange(15, at::kFloat).view({5, 3})));
  EXPECT_TRUE(at::equal(wider.to(at::kFloat), same));
}

}  // namespace
}  // namespace ponte
