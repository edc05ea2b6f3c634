// The same model on the device under test and on a processor: losses, gradients, an optimizer's steps, cached generation.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "model/kv_cache.h"
#include "model/model.h"
#include "models.h"
#include "optim/adamw.h"
#include "test_device.h"

namespace ponte {
namespace {

ModelConfig dense() {
  ModelConfig c = models::qwen3({.layers = 2, .hidden = 64, .ffn = 96, .heads = 4, .groups = 2, .head_dim = 16, .vocabulary = 97, .positions = 256});
  c.init_method_std = 0.1;
  return c;
}

ModelConfig sparse() { return models::with_experts(dense(), {.count = 4, .chosen = 2, .ffn = 32, .balancing = 1e-2}); }

ModelConfig hybrid() {
  return models::with_linear_attention(dense(), {.key_heads = 2, .value_heads = 4, .key_dim = 8, .value_dim = 16, .frequency = 2, .rotary_percent = 0.5});
}

struct Case {
  const char* name;
  ModelConfig (*config)();
  at::ScalarType type;
  bool documents;
  double tolerance;  // norm-relative, of losses and gradients
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name << " " << at::toString(c.type); }

double distance(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.to(at::kCPU, at::kDouble), y = b.to(at::kCPU, at::kDouble);
  return ((x - y).norm() / (y.norm() + 1e-30)).item<double>();
}

Batch batch_of(bool documents) {
  at::manual_seed(4);
  Batch batch;
  batch.tokens_BT = at::randint(0, 97, {2, 80}, at::kLong);
  batch.labels_BT = batch.tokens_BT.roll(-1, 1);
  if (documents) batch.document_starts_BT = at::arange(80).div(33, "floor").mul(33).expand({2, 80}).contiguous();
  return batch;
}

struct Trained {
  std::unique_ptr<Model> model;
  std::vector<double> losses;
  std::vector<at::Tensor> first_gradients;
};

Trained trained(const Case& c, const at::Device& device) {
  Trained out{std::make_unique<Model>(c.config(), single_groups(), ModelOptions{.device = device, .dtype = c.type}), {}, {}};
  Model& model = *out.model;
  model.initialize(11);
  AdamW optimizer(model.parameters(), {});
  for (int64_t step = 0; step < 3; ++step) {
    model.zero_gradients();
    const LossSum loss = model.forward_loss(batch_of(c.documents), 1.0 / 160);
    loss.scaled.backward();
    model.reduce_gradients();
    if (step == 0)
      for (const Parameter* p : model.parameters()) out.first_gradients.push_back(p->main_grad.to(at::kCPU, /*non_blocking=*/false, /*copy=*/true));
    const GradientReport report = optimizer.measure(1, AdamW::Zeros::not_counted);
    EXPECT_TRUE(report.non_finite.empty());
    optimizer.step(1e-3, 0.1, clip_factor(report.norm, 1.0));
    out.losses.push_back(loss.sum.item<double>());
  }
  return out;
}

class OnDevice : public testing::TestWithParam<Case> {};

TEST_P(OnDevice, TrainsAsOnAProcessor) {
  const Case& c = GetParam();
  const Trained host = trained(c, at::kCPU), device = trained(c, test_device());
  for (size_t i = 0; i < host.losses.size(); ++i) EXPECT_NEAR(device.losses[i], host.losses[i], c.tolerance * host.losses[i]) << i;
  const auto parameters = host.model->parameters();
  for (size_t i = 0; i < parameters.size(); ++i)
    EXPECT_LT(distance(device.first_gradients[i], host.first_gradients[i]), 4 * c.tolerance) << parameters[i]->name;
}

TEST_P(OnDevice, CachedGenerationEqualsThePlainPass) {
  const Case& c = GetParam();
  Model model(c.config(), single_groups(), {.device = test_device(), .dtype = c.type});
  model.initialize(11);
  Batch batch = batch_of(false);
  batch.tokens_BT = batch.tokens_BT.narrow(1, 0, 20).contiguous();
  const at::Tensor wanted = model.logits(batch);
  KvCache cache(model, 2, 20);
  std::vector<at::Tensor> parts;
  for (const auto& [from, count] : std::vector<std::pair<int64_t, int64_t>>{{0, 11}, {11, 1}, {12, 1}, {13, 7}})
    parts.push_back(model.forward(batch.tokens_BT.narrow(1, from, count), cache, {}, Logits::every_token));
  EXPECT_LT(distance(at::cat(parts, 1), wanted), 4 * c.tolerance);
}

INSTANTIATE_TEST_SUITE_P(Models, OnDevice,
                         testing::Values(Case{"dense", dense, at::kFloat, false, 1e-5}, Case{"dense", dense, at::kBFloat16, false, 1e-2},
                                         Case{"dense", dense, at::kBFloat16, true, 1e-2}, Case{"sparse", sparse, at::kFloat, false, 1e-4},
                                         Case{"hybrid", hybrid, at::kFloat, true, 1e-4}, Case{"hybrid", hybrid, at::kBFloat16, false, 2e-2}));

}  // namespace
}  // namespace ponte
