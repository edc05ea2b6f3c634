// The update against the textbook in fp64, the decay rules, the norm, and independence from the number of threads.
#include "optim/adamw.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>

#include "optim/adam_kernel.h"
#include "optim/fused_adam.h"

namespace ponte {
namespace {

struct Parameters {
  std::vector<std::unique_ptr<Parameter>> owned;
  std::vector<Parameter*> pointers;

  void add(std::string name, std::vector<int64_t> shape, at::ScalarType dtype, DecayClass decay) {
    auto p = std::make_unique<Parameter>();
    p->name = std::move(name);
    p->set_value(at::randn(shape, at::kFloat).to(dtype).set_requires_grad(true));
    p->main_grad = at::zeros(shape, dtype == at::kDouble ? at::kDouble : at::kFloat);
    p->kept_gradient = {{0, shape[0]}, p->main_grad};
    p->decay = decay;
    pointers.push_back(p.get());
    owned.push_back(std::move(p));
  }
};

Parameters make_parameters(at::ScalarType dtype) {
  at::manual_seed(7);
  Parameters out;
  out.add("decoder.layers.0.mlp.linear_fc1.weight", {301, 257}, dtype, DecayClass::decayed);  // several chunks, ragged end
  out.add("decoder.final_layernorm.weight", {63}, dtype, DecayClass::not_decayed);
  out.add("decoder.layers.0.self_attention.q_layernorm.weight", {16}, dtype, DecayClass::qk_layernorm);
  return out;
}

void fill_gradients(Parameters& parameters, int64_t step) {
  at::manual_seed(100 + step);
  for (Parameter* p : parameters.pointers) p->main_grad.copy_(at::randn(p->value.sizes(), at::kFloat));
}

// The definition, one tensor at a time, in fp64.
struct Reference {
  at::Tensor param, m, v;
  void step(const at::Tensor& gradient, int64_t t, double lr, double wd, double scale) {
    const at::Tensor g = gradient.to(at::kDouble) * scale;
    m = 0.9 * m + 0.1 * g;
    v = 0.95 * v + 0.05 * g * g;
    param = param - lr * ((m / (1 - std::pow(0.9, t))) / ((v / (1 - std::pow(0.95, t))).sqrt() + 1e-8) + wd * param);
  }
};

double relative(const at::Tensor& a, const at::Tensor& b) {
  return ((a.to(at::kDouble) - b.to(at::kDouble)).norm() / b.to(at::kDouble).norm()).item<double>();
}

struct Case {
  at::ScalarType dtype;
  bool qk_decay;
  double tolerance;
};

class AdamWAgainstDefinition : public testing::TestWithParam<Case> {};

TEST_P(AdamWAgainstDefinition, TenSteps) {
  const Case c = GetParam();
  Parameters parameters = make_parameters(c.dtype);
  AdamW optimizer(parameters.pointers, {.apply_wd_to_qk_layernorm = c.qk_decay});
  std::vector<Reference> references;
  for (Parameter* p : parameters.pointers) {
    const at::Tensor start = p->value.detach().to(at::kDouble);
    references.push_back({start.clone(), at::zeros_like(start), at::zeros_like(start)});
  }
  for (int64_t t = 1; t <= 10; ++t) {
    fill_gradients(parameters, t);
    const double lr = 1e-2 / static_cast<double>(t), scale = 0.25;
    for (size_t i = 0; i < references.size(); ++i) {
      const bool decayed = i == 0 || (i == 2 && c.qk_decay);
      references[i].step(parameters.pointers[i]->main_grad, t, lr, decayed ? 0.1 : 0.0, scale);
    }
    optimizer.step(lr, 0.1, scale);
  }
  EXPECT_EQ(optimizer.steps(), 10);
  for (size_t i = 0; i < references.size(); ++i) {
    const AdamW::Slot& slot = optimizer.slots()[i];
    EXPECT_LT(relative(slot.main_param, references[i].param), c.tolerance) << slot.parameter->name;
    EXPECT_LT(relative(slot.exp_avg, references[i].m), c.tolerance) << slot.parameter->name;
    EXPECT_LT(relative(slot.exp_avg_sq, references[i].v), c.tolerance) << slot.parameter->name;
    EXPECT_TRUE(at::equal(slot.parameter->value.detach(), slot.main_param.to(c.dtype))) << slot.parameter->name;
  }
}

INSTANTIATE_TEST_SUITE_P(Types, AdamWAgainstDefinition,
                         testing::Values(Case{at::kFloat, false, 3e-7}, Case{at::kFloat, true, 3e-7}, Case{at::kBFloat16, false, 3e-7},
                                         Case{at::kHalf, true, 3e-7}, Case{at::kDouble, true, 1e-15}));

TEST(AdamW, ThreadsDoNotChangeABit) {
  std::vector<std::vector<at::Tensor>> results;
  for (int threads : {1, 2, 3}) {
    at::set_num_threads(threads);
    Parameters parameters = make_parameters(at::kBFloat16);
    AdamW optimizer(parameters.pointers, {});
    for (int64_t t = 1; t <= 3; ++t) {
      fill_gradients(parameters, t);
      optimizer.step(1e-3, 0.1, clip_factor(optimizer.measure(1.0, AdamW::Zeros::not_counted).norm, 1.0));
    }
    std::vector<at::Tensor> values;
    for (const AdamW::Slot& slot : optimizer.slots()) values.insert(values.end(), {slot.main_param, slot.exp_avg, slot.exp_avg_sq});
    results.push_back(values);
  }
  for (size_t i = 0; i < results[0].size(); ++i) {
    EXPECT_TRUE(at::equal(results[0][i], results[1][i]));
    EXPECT_TRUE(at::equal(results[0][i], results[2][i]));
  }
}

// What a card runs, on ATen's processor kernels.
TEST(FusedAdam, EqualsTheKernelOfAProcessor) {
  for (const auto& [type, tolerance] : {std::pair{at::kFloat, 1e-6}, std::pair{at::kDouble, 1e-7}}) {
    at::manual_seed(8);
    FusedTensors fused, plain;
    for (const int64_t n : {1000, 1, 37})
      for (auto* list : {&fused.params, &fused.gradients, &fused.exp_avgs, &fused.exp_avg_sqs}) list->push_back(at::rand({n}, type) + 0.1);
    const auto copies = [](const std::vector<at::Tensor>& list) {
      std::vector<at::Tensor> out;
      for (const at::Tensor& t : list) out.push_back(t.clone());
      return out;
    };
    plain = {copies(fused.params), copies(fused.gradients), copies(fused.exp_avgs), copies(fused.exp_avg_sqs)};
    const int64_t steps = 3;
    const AdamScalars scalars{.lr = 1e-2, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .bias_correction1 = 1 - std::pow(0.9, 3),
                              .bias_correction2 = 1 - std::pow(0.95, 3), .gradient_scale = 0.25};
    fused_adam_update(fused, scalars, steps);
    for (size_t i = 0; i < plain.params.size(); ++i) {
      const auto update = [&]<class Real>(Real) {
        const auto all = [](const at::Tensor& t) { return std::span(t.data_ptr<Real>(), static_cast<size_t>(t.numel())); };
        adam_update(all(plain.params[i]), all(plain.gradients[i]), all(plain.exp_avgs[i]), all(plain.exp_avg_sqs[i]), scalars);
      };
      if (type == at::kDouble) update(double{});
      else update(float{});
      EXPECT_LT(relative(fused.params[i], plain.params[i]), tolerance);
      EXPECT_LT(relative(fused.exp_avgs[i], plain.exp_avgs[i]), tolerance);
      EXPECT_LT(relative(fused.exp_avg_sqs[i], plain.exp_avg_sqs[i]), tolerance);
    }
  }
}

TEST(FusedAdam, MeasuresAsTheHostDoes) {
  const float huge = std::numeric_limits<float>::max();
  const std::vector<at::Tensor> tensors = {at::tensor({3.0f, 0.0f, 4.0f}), at::tensor({0.0f}), at::tensor({huge, huge}),
                                           at::tensor({std::numeric_limits<float>::quiet_NaN()})};
  const Measured found = measure_on_device(tensors, CountZeros::yes);
  EXPECT_EQ(found.norms[0], 5);
  EXPECT_EQ(found.zeros, (std::vector<int64_t>{1, 1, 0, 0}));
  EXPECT_TRUE(std::isfinite(found.norms[2]));
  EXPECT_FALSE(std::isfinite(found.norms[3]));
}

TEST(AdamW, MeasuresNormZerosAndNonFinite) {
  Parameters parameters = make_parameters(at::kFloat);
  AdamW optimizer(parameters.pointers, {});
  fill_gradients(parameters, 1);
  parameters.pointers[1]->main_grad.zero_();
  double sum = 0;
  for (Parameter* p : parameters.pointers) sum += p->main_grad.to(at::kDouble).square().sum().item<double>();
  GradientReport report = optimizer.measure(0.5, AdamW::Zeros::counted);
  EXPECT_NEAR(report.norm, 0.5 * std::sqrt(sum), 1e-12 * std::sqrt(sum));
  EXPECT_EQ(report.zeros, 63);
  EXPECT_TRUE(report.non_finite.empty());
  for (float bad : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    parameters.pointers[1]->main_grad[62] = bad;
    report = optimizer.measure(1.0, AdamW::Zeros::not_counted);
    EXPECT_EQ(report.non_finite, std::vector<std::string>{"decoder.final_layernorm.weight"});
  }
  parameters.pointers[1]->main_grad.fill_(std::numeric_limits<float>::max());  // huge but finite
  report = optimizer.measure(1.0, AdamW::Zeros::not_counted);
  EXPECT_TRUE(report.non_finite.empty());
  EXPECT_TRUE(std::isfinite(report.norm));
}

TEST(AdamW, FrozenParametersAreLeftAlone) {
  Parameters parameters = make_parameters(at::kFloat);
  parameters.pointers[0]->value.set_requires_grad(false);
  const at::Tensor before = parameters.pointers[0]->value.clone();
  AdamW optimizer(parameters.pointers, {});
  EXPECT_EQ(optimizer.slots().size(), 2u);
  fill_gradients(parameters, 1);
  optimizer.step(1e-2, 0.1, 1.0);
  EXPECT_TRUE(at::equal(before, parameters.pointers[0]->value));
}

TEST(AdamW, ClipFactor) {
  EXPECT_EQ(clip_factor(0.5, 1.0), 1.0);
  EXPECT_EQ(clip_factor(5.0, 0.0), 1.0);
  EXPECT_DOUBLE_EQ(clip_factor(4.0, 1.0), 1.0 / (4.0 + 1e-6));
}

TEST(AdamKernel, RoundingEqualsTorch) {
  at::manual_seed(3);
  const float infinity = std::numeric_limits<float>::infinity();
  at::Tensor values = at::cat({at::randn({100000}) * at::pow(2.0, at::randint(-160, 140, {100000})),
                               at::tensor(std::vector<float>{0.0f, -0.0f, infinity, -infinity, 3.4e38f, 65504.0f, 65520.0f, 1e-40f, 5.9e-8f})});
  for (at::ScalarType dtype : {at::kBFloat16, at::kHalf}) {
    at::Tensor out = at::empty(values.sizes(), dtype);
    const std::span<const float> source(values.data_ptr<float>(), static_cast<size_t>(values.numel()));
    const std::span<uint16_t> target(static_cast<uint16_t*>(out.data_ptr()), source.size());
    dtype == at::kHalf ? round_to_f16(source, target) : round_to_bf16(source, target);
    EXPECT_TRUE(at::equal(out, values.to(dtype)));
  }
  const float nan = std::numeric_limits<float>::quiet_NaN();
  uint16_t bits;
  round_to_bf16({&nan, 1}, {&bits, 1});
  EXPECT_EQ(bits & 0x7fff, 0x7fc0);
}

}  // namespace
}  // namespace ponte
