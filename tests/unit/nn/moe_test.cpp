// The router's variants against plain definitions and known choices, the balancing losses, and the kernels that move and weight rows.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "base/errors.h"
#include "kernels/grouped_gemm.h"
#include "kernels/permute.h"
#include "kernels/weighted_swiglu.h"
#include "nn/moe.h"
#include "nn/parameters.h"

namespace ponte {
namespace {

double distance(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.to(at::kDouble), y = b.to(at::kDouble);
  return ((x - y).norm() / (y.norm() + 1e-30)).item<double>();
}

ModelConfig sparse_config(int64_t experts = 6, int64_t choices = 2) {
  ModelConfig c;
  c.num_moe_experts = experts;
  c.moe_router_topk = choices;
  c.moe_ffn_hidden_size = 5;
  c.hidden_size = 4;
  return c;
}

// A router whose logits are its input: the gate is the identity.
struct Probe {
  Parameter gate, bias;
  Router router;
  RoutingReport report;

  explicit Probe(const ModelConfig& c, at::ScalarType type = at::kDouble) {
    gate.name = "gate";
    gate.value = at::eye(c.num_moe_experts, type).set_requires_grad(true);
    gate.main_grad = at::zeros_like(gate.value.detach());
    router = {&gate, nullptr, router_options(c), 0};
    report.loads.resize(1);
  }
  Routing operator()(const at::Tensor& logits) {
    report.T = logits.size(0) / report.B;
    return router(logits, &report);
  }
};

at::Tensor rows(std::initializer_list<std::initializer_list<double>> values) {
  std::vector<at::Tensor> out;
  for (const auto& row : values) out.push_back(at::tensor(std::vector<double>(row), at::kDouble));
  return at::stack(out);
}
at::Tensor ids(std::initializer_list<std::initializer_list<int64_t>> values) {
  std::vector<at::Tensor> out;
  for (const auto& row : values) out.push_back(at::tensor(std::vector<int64_t>(row)));
  return at::stack(out);
}

TEST(Router, ScoresBeforeAndAfterTheChoice) {
  const at::Tensor logits = rows({{0.1, 2, -1, 0.5}, {3, 0, 1, -2}});
  ModelConfig c = sparse_config(4, 2);
  const Routing after = Probe(c)(logits);
  EXPECT_TRUE(at::equal(after.experts_SK, ids({{1, 3}, {0, 2}})));
  const at::Tensor chosen = at::gather(logits, 1, after.experts_SK);
  EXPECT_LT(distance(after.weights_SK, at::softmax(chosen, -1)), 1e-14);
  c.moe_router_pre_softmax = true;
  EXPECT_LT(distance(Probe(c)(logits).weights_SK, at::gather(at::softmax(logits, -1), 1, after.experts_SK)), 1e-14);
  c.moe_router_topk_scaling_factor = 2.5;
  EXPECT_LT(distance(Probe(c)(logits).weights_SK, 2.5 * at::gather(at::softmax(logits, -1), 1, after.experts_SK)), 1e-14);
  c.moe_router_score_function = "sigmoid";
  const at::Tensor scores = at::sigmoid(chosen);
  EXPECT_LT(distance(Probe(c)(logits).weights_SK, 2.5 * scores / scores.sum(-1, true)), 1e-14);
}

TEST(Router, BiasChoosesButDoesNotWeigh) {
  ModelConfig c = sparse_config(4, 2);
  c.moe_router_score_function = "sigmoid";
  Probe probe(c);
  probe.bias.value = at::tensor({0.0f, 0.0f, 5.0f, 0.0f});
  probe.router.expert_bias = &probe.bias;
  const at::Tensor logits = rows({{0.1, 2, -1, 0.5}});
  const Routing routing = probe(logits);
  EXPECT_TRUE(at::equal(routing.experts_SK, ids({{2, 1}})));
  const at::Tensor scores = at::sigmoid(at::gather(logits, 1, routing.experts_SK));
  EXPECT_LT(distance(routing.weights_SK, scores / scores.sum()), 1e-14);
  EXPECT_TRUE(at::equal(updated_expert_bias(probe.bias.value, at::tensor({9.0f, 1.0f, 5.0f, 5.0f}), 0.5), at::tensor({-0.5f, 0.5f, 5.0f, 0.0f})));
}

TEST(Router, GroupsLimitTheChoice) {
  ModelConfig c = sparse_config(6, 2);
  c.moe_router_num_groups = 3;
  c.moe_router_group_topk = 1;
  // The best single expert (4) is in a weaker pair than {0, 1}.
  EXPECT_TRUE(at::equal(Probe(c)(rows({{2, 1.9, 0, 0, 2.1, -3}})).experts_SK, ids({{0, 1}})));
  c.moe_router_group_topk = 2;
  EXPECT_TRUE(at::equal(Probe(c)(rows({{2, 1.9, 0, 0, 2.1, -3}})).experts_SK, ids({{4, 0}})));
  c.moe_router_num_groups = 4;
  EXPECT_THROW(router_options(c), UserError);
  c.moe_router_num_groups = 6, c.moe_router_group_topk = 1;  // a group of one has not the two that a token chooses
  EXPECT_THROW(router_options(c), UserError);
  c = sparse_config();
  c.moe_router_load_balancing_type = "sinkhorn";
  EXPECT_THROW(router_options(c), UserError);
}

TEST(Router, ACapacityBeyondAllTokensDropsNone) {
  ModelConfig c = sparse_config(2, 1);
  const at::Tensor x = rows({{2, 0}, {3, 0}, {4, 0}, {5, 0}});
  for (double factor : {-1.0, 2.0, 1e30}) {
    c.moe_expert_capacity_factor = factor;
    EXPECT_TRUE(at::equal(Probe(c)(x).experts_SK, ids({{0}, {0}, {0}, {0}}))) << factor;
  }
}

TEST(Router, CapacityDropsTheSmallestOrTheLast) {
  ModelConfig c = sparse_config(2, 1);
  c.moe_router_pre_softmax = true;
  c.moe_expert_capacity_factor = 1.0;  // two of four tokens each
  const at::Tensor logits = rows({{1, 0}, {3, 0}, {2, 0}, {0, 1}});
  EXPECT_TRUE(at::equal(Probe(c)(logits).experts_SK, ids({{-1}, {0}, {0}, {1}})));
  c.moe_token_drop_policy = "position";
  EXPECT_TRUE(at::equal(Probe(c)(logits).experts_SK, ids({{0}, {0}, {-1}, {1}})));
}

TEST(Router, ForcedBalanceIsEven) {
  ModelConfig c = sparse_config(4, 2);
  c.moe_router_force_load_balancing = true;
  Probe probe(c);
  probe(at::randn({8, 4}, at::kDouble));
  EXPECT_TRUE(at::equal(probe.report.loads[0].tokens_E, at::full({4}, 4.0f)));
}

// Losses and gradients with padding are those of the batch without it.
TEST(Router, PaddingCountsNowhere) {
  for (const char* type : {"aux_loss", "seq_aux_loss", "global_aux_loss"}) {
    ModelConfig c = sparse_config(4, 2);
    c.moe_router_load_balancing_type = type;
    c.moe_aux_loss_coeff = 0.3;
    c.moe_z_loss_coeff = 0.2;
    at::manual_seed(3);
    const at::Tensor real = at::randn({5, 4}, at::kDouble), padded = at::cat({real, at::randn({3, 4}, at::kDouble)});
    at::Tensor gradients[2];
    double losses[2][2];
    for (int with = 0; with < 2; ++with) {
      Probe probe(c);
      probe.report.objective_scale = 0.7;
      if (with) probe.report.real_S = at::tensor({1, 1, 1, 1, 1, 0, 0, 0}).to(at::kBool);
      const at::Tensor x = (with ? padded : real).clone().set_requires_grad(true);
      const Routing routing = probe(x);
      routing.weights_SK.narrow(0, 0, 5).select(1, 0).sum().backward();
      gradients[with] = x.grad().narrow(0, 0, 5);
      losses[with][0] = probe.report.loads[0].balancing;
      losses[with][1] = probe.report.loads[0].z;
      EXPECT_EQ(probe.report.loads[0].tokens, 5);
      EXPECT_EQ(probe.report.loads[0].tokens_E.sum().item<double>(), 10);
      if (with) {
        EXPECT_EQ(x.grad().narrow(0, 5, 3).abs().max().item<double>(), 0);
        EXPECT_TRUE(at::equal(routing.experts_SK.narrow(0, 5, 3), at::full({3, 2}, -1, at::kLong)));
      }
    }
    EXPECT_LT(distance(gradients[1], gradients[0]), 1e-14) << type;
    EXPECT_NEAR(losses[1][0], losses[0][0], 1e-14) << type;
    EXPECT_NEAR(losses[1][1], losses[0][1], 1e-14) << type;
  }
}

TEST(Router, BalancingLossesCountOverTheirGroup) {
  ModelConfig c = sparse_config(4, 2);
  c.moe_aux_loss_coeff = 1;
  at::manual_seed(4);
  const at::Tensor logits = at::randn({6, 4}, at::kDouble), p = at::softmax(logits, -1);
  const at::Tensor chosen = at::zeros({6, 4}, at::kDouble).scatter(1, std::get<1>(p.topk(2, 1)), 1.0);
  const auto loss = [&](const at::Tensor& share, const at::Tensor& mean) { return (4.0 * share * mean).sum().item<double>(); };
  Probe probe(c);
  probe(logits);
  EXPECT_NEAR(probe.report.loads[0].balancing, loss(chosen.mean(0) / 2, p.mean(0)), 1e-12);
  c.moe_router_load_balancing_type = "seq_aux_loss";
  Probe sequences(c);
  sequences.report.B = 2;
  sequences(logits);
  const auto half = [&](int64_t b) { return loss(chosen.narrow(0, 3 * b, 3).mean(0) / 2, p.narrow(0, 3 * b, 3).mean(0)); };
  EXPECT_NEAR(sequences.report.loads[0].balancing, (half(0) + half(1)) / 2, 1e-12);
  c.moe_router_load_balancing_type = "global_aux_loss";
  Probe global(c);
  const at::Tensor before = at::tensor({8.0f, 0.0f, 2.0f, 2.0f});
  global.report.before.push_back({before, 6.0, 0, 0});
  global(logits);
  EXPECT_NEAR(global.report.loads[0].balancing, loss((chosen.sum(0) + before) / 24, p.mean(0)), 1e-12);
  EXPECT_NEAR(balancing_loss(at::full({5, 3}, 1.0 / 3), at::full({3}, 10.0f / 3), 5, 2).item<double>(), 1.0, 1e-6);
}

TEST(Permute, SortsByExpertThenToken) {
  const Permutation p = permutation_of(ids({{2, 0}, {-1, 2}, {0, 3}}), 4);
  EXPECT_EQ(p.rows.first, (std::vector<int64_t>{0, 2, 2, 4, 5}));
  EXPECT_TRUE(at::equal(p.token_P, at::tensor(std::vector<int64_t>{0, 2, 0, 1, 2})));
  EXPECT_TRUE(at::equal(p.pair_P, at::tensor(std::vector<int64_t>{1, 4, 0, 3, 5})));
  EXPECT_TRUE(at::equal(p.row_SK, ids({{2, 0}, {-1, 3}, {1, 4}})));
}

TEST(Kernels, RowsMoveAndWeigh) {
  at::manual_seed(5);
  for (const auto& [type, tolerance] : {std::pair{at::kFloat, 2e-6}, std::pair{at::kBFloat16, 6e-3}}) {
    const int64_t E = 5, F = 19, H = 23;
    const at::Tensor experts = at::randint(-1, E, {37, 3}, at::kLong);
    const Permutation p = permutation_of(experts, E);
    const int64_t P = p.rows.first.back();
    const at::Tensor x = at::randn({37, H}).to(type), rows = at::randn({P, H}).to(type);
    EXPECT_TRUE(at::equal(gather_tokens(x, p.token_P), x.index_select(0, p.token_P)));
    EXPECT_LT(distance(sum_rows(rows, p.row_SK), sum_rows_reference(rows.to(at::kDouble), p.row_SK)), tolerance);

    const at::Tensor gate_up = at::randn({P, 2 * F}).to(type), weights = at::rand({P}), dy = at::randn({P, F}).to(type);
    const at::Tensor wide = gate_up.to(at::kDouble).set_requires_grad(true), wide_weights = weights.to(at::kDouble).set_requires_grad(true);
    const auto halves = wide.chunk(2, 1);
    const at::Tensor y = at::silu(halves[0]) * halves[1] * wide_weights.unsqueeze(1);
    (y * dy.to(at::kDouble)).sum().backward();
    EXPECT_LT(distance(weighted_swiglu(gate_up, weights), y), tolerance);
    const WeightedSwiGluGradients d = weighted_swiglu_backward(dy, gate_up, weights);
    EXPECT_LT(distance(d.y_PF, y), tolerance);
    EXPECT_LT(distance(d.dgate_up_PF2, wide.grad()), tolerance);
    EXPECT_LT(distance(d.dweight_P, wide_weights.grad()), tolerance);

    std::vector<at::Tensor> w, gradients;
    for (int64_t e = 0; e < E; ++e) w.push_back(at::randn({2 * F, H}).to(type)), gradients.push_back(at::ones({2 * F, H}));
    const at::Tensor product = grouped_times_transposed(rows, w, p.rows), back = grouped_times(gate_up, w, p.rows);
    grouped_add_transposed_product(gradients, gate_up, rows, p.rows);
    for (int64_t e = 0; e < E; ++e) {
      const int64_t at = p.rows.first[e], n = p.rows.first[e + 1] - at;
      const at::Tensor a = rows.narrow(0, at, n).to(at::kDouble), b = gate_up.narrow(0, at, n).to(at::kDouble), m = w[e].to(at::kDouble);
      EXPECT_LT(distance(product.narrow(0, at, n), a.mm(m.t())), tolerance);
      EXPECT_LT(distance(back.narrow(0, at, n), b.mm(m)), tolerance);
      EXPECT_LT(distance(gradients[e], b.t().mm(a) + 1), tolerance);
    }
  }
}

}  // namespace
}  // namespace ponte
