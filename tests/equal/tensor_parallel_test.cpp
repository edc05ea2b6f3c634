// Tensor parallelism changes no number: loss and every gradient of a dense model over 2 and 4 ranks (threads) equal one process's, norm-relative per
// tensor, 1e-5 in fp32 and 1e-12 in fp64.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>

#include <map>
#include <mutex>

#include "base/errors.h"
#include "base/hash.h"
#include "comm/thread_group.h"
#include "families/rule.h"
#include "model/kv_cache.h"
#include "model/model.h"

namespace ponte {
namespace {

struct Variant {
  const char* name;
  int64_t ranks, heads, groups, vocabulary;
  bool tied, sequence_parallel, qwen2;
  const char* recompute = "";
};

void PrintTo(const Variant& v, std::ostream* out) { *out << v.name; }

ModelConfig config_of(const Variant& v) {
  ModelConfig c;
  c.model_type = v.qwen2 ? "qwen2" : "qwen3";
  c.hf_architecture = v.qwen2 ? "Qwen2ForCausalLM" : "Qwen3ForCausalLM";
  c.num_layers = 2;
  c.hidden_size = 40;
  c.ffn_hidden_size = 56;
  c.num_attention_heads = v.heads;
  c.num_query_groups = v.groups;
  c.kv_channels = 12;
  c.vocab_size = v.vocabulary;
  c.max_position_embeddings = 128;
  c.qk_layernorm = !v.qwen2;
  c.add_qkv_bias = v.qwen2;
  c.share_embeddings_and_output_weights = v.tied;
  c.sequence_parallel = v.sequence_parallel;
  c.recompute_granularity = v.recompute[0] ? "full" : "";
  c.recompute_method = v.recompute;
  return c;
}

// Calls body(part of the whole, part of the shard) for every stretch this rank holds.
template <class Body>
void for_pieces(const Parameter& p, const at::Tensor& whole, const at::Tensor& local, Body body) {
  int64_t first_row = 0;
  for (size_t s = 0; s < p.slice.segments.size(); ++s) {
    const Segment& segment = p.rule->segments[s];
    const int64_t dim = std::max<int64_t>(segment.shard_dim, 0);
    int64_t at = dim == 0 ? p.slice.segments[s].offset : 0;
    for (const Interval& i : p.slice.segments[s].intervals) {
      const int64_t rows = i.end - i.begin;
      body(whole.narrow(0, first_row, segment.shape[0]).narrow(dim, i.begin, rows), local.narrow(dim, at, rows));
      at += rows;
    }
    first_row += segment.shape[0];
  }
}

at::Tensor random_whole(const Parameter& p) {
  const at::Generator generator = at::detail::createCPUGenerator(xxh3_64(std::as_bytes(std::span(p.name))));
  const at::Tensor noise = at::normal(0.0, 0.3, p.rule->shape, generator, at::kDouble, at::kStrided, at::kCPU, false);
  return p.rule->shape.size() == 1 && p.name.find("bias") == std::string::npos ? noise + 1 : noise;
}

void fill(Model& model) {
  at::NoGradGuard off;
  for (Parameter* p : model.parameters()) for_pieces(*p, random_whole(*p), p->value, [](const at::Tensor& from, const at::Tensor& to) { to.copy_(from); });
}

Batch random_batch(int64_t vocabulary) {
  const at::Generator generator = at::detail::createCPUGenerator(3);
  Batch batch;
  batch.tokens_BT = at::randint(0, vocabulary, {2, 36}, generator, at::kLong);
  batch.labels_BT = at::randint(0, vocabulary, {2, 36}, generator, at::kLong);
  batch.loss_mask_BT = at::randint(0, 3, {2, 36}, generator, at::kFloat) / 2;  // uneven weights, zeros among them
  batch.document_starts_BT = at::arange(36).div(15, "floor").mul(15).unsqueeze(0).expand({2, 36}).contiguous();
  return batch;
}

struct Outcome {
  double loss = 0;
  at::Tensor logits;
  std::map<std::string, at::Tensor> gradients;  // whole
};

// Two micro-batches, so that accumulation is part of it.
void run(Model& model, const Batch& batch, Outcome& out, std::mutex& mutex) {
  fill(model);
  model.zero_gradients();
  double loss = 0;
  for (int i = 0; i < 2; ++i) {
    const LossSum sum = model.forward_loss(batch, 0.01 * (i + 1));
    sum.scaled.backward();
    loss += sum.sum.item<double>();
  }
  model.reduce_gradients();
  const at::Tensor logits = model.logits(batch);
  std::lock_guard lock(mutex);
  out.loss = loss;
  out.logits = logits;
  for (Parameter* p : model.parameters()) {
    at::Tensor& whole = out.gradients[p->name];
    if (!whole.defined()) whole = at::full(p->rule->shape, NAN, at::kDouble);
    for_pieces(*p, whole, p->main_grad, [&](const at::Tensor& to, const at::Tensor& from) {
      const at::Tensor value = from.to(at::kDouble);
      if (to.isnan().logical_not().any().item<bool>()) EXPECT_TRUE(at::equal(to, value)) << p->name << ": ranks that share rows disagree";
      to.copy_(value);
    });
    const Slice& slice = p->slice;
    if (slice.segments[0].padding > 0)
      EXPECT_EQ(p->main_grad.narrow(0, slice.shape[0] - slice.segments[0].padding, slice.segments[0].padding).abs().sum().item<double>(), 0) << p->name;
  }
}

double distance(const at::Tensor& a, const at::Tensor& b) {
  return ((a.to(at::kDouble) - b.to(at::kDouble)).norm() / (b.to(at::kDouble).norm() + 1e-300)).item<double>();
}

class TensorParallelEquality : public testing::TestWithParam<Variant> {};

TEST_P(TensorParallelEquality, LossLogitsAndEveryGradient) {
  const Variant& v = GetParam();
  const Batch batch = random_batch(v.vocabulary);
  for (const auto& [type, tolerance] : std::vector<std::pair<at::ScalarType, double>>{{at::kFloat, 1e-5}, {at::kDouble, 1e-12}}) {
    ModelOptions options;
    options.dtype = type;
    ModelConfig alone = config_of(v);
    alone.sequence_parallel = false;
    alone.recompute_granularity = "";
    std::mutex mutex;
    Outcome one, many;
    Model model(alone, single_groups(), options);
    run(model, batch, one, mutex);
    run_tensor_parallel(v.ranks, [&](const Groups& groups) {
      Model shard(config_of(v), groups, options);
      run(shard, batch, many, mutex);
    });
    EXPECT_NEAR(many.loss, one.loss, tolerance * std::abs(one.loss));
    EXPECT_LE(distance(many.logits, one.logits), tolerance);
    ASSERT_EQ(many.gradients.size(), one.gradients.size());
    for (const auto& [name, gradient] : one.gradients)
      EXPECT_LE(distance(many.gradients.at(name), gradient), tolerance) << name << " " << at::toString(type);
  }
}

INSTANTIATE_TEST_SUITE_P(Dense, TensorParallelEquality,
                         testing::Values(Variant{"two ranks", 2, 4, 2, 64, false, false, false},
                                         Variant{"odd vocabulary, tied", 2, 4, 2, 61, true, false, false},
                                         Variant{"bias", 2, 4, 2, 64, false, false, true}, Variant{"more ranks than groups", 4, 8, 2, 64, false, false, false},
                                         Variant{"more ranks than groups, bias, tied, odd", 4, 8, 1, 57, true, false, true},
                                         Variant{"sequence parallel", 2, 4, 2, 64, false, true, false},
                                         Variant{"sequence parallel, tied, odd, shared groups", 4, 8, 2, 61, true, true, false},
                                         Variant{"recompute", 2, 4, 2, 63, false, true, false, "uniform"}));

TEST(TensorParallel, InitialWeightsDoNotDependOnTheLayout) {
  const Variant v{"", 4, 8, 2, 61, false, false, false};
  Model whole(config_of(v));
  whole.initialize(7);
  run_tensor_parallel(4, [&](const Groups& groups) {
    Model shard(config_of(v), groups);
    shard.initialize(7);
    for (Parameter* p : shard.parameters())
      for_pieces(*p, whole.find_parameter(p->name)->value, p->value, [&](const at::Tensor& a, const at::Tensor& b) { EXPECT_TRUE(at::equal(a, b)) << p->name; });
  });
}

TEST(TensorParallel, CachedGenerationGivesTheSameTokens) {
  const Variant v{"", 2, 4, 2, 61, true, false, false};
  const auto generate = [&](Model& model) {
    fill(model);
    KvCache cache(model, 2, 40);
    const at::Tensor prompt = random_batch(61).tokens_BT.narrow(1, 0, 9);
    at::Tensor next = model.forward(prompt, cache, std::vector<int64_t>{9, 4}).argmax(-1, true);
    std::vector<at::Tensor> tokens = {next};
    for (int i = 0; i < 12; ++i) tokens.push_back(next = model.forward(next, cache).argmax(-1, true));
    return at::cat(tokens, 1);
  };
  Model model(config_of(v));
  const at::Tensor wanted = generate(model);
  run_tensor_parallel(2, [&](const Groups& groups) {
    Model shard(config_of(v), groups);
    EXPECT_TRUE(at::equal(generate(shard), wanted));
  });
}

TEST(TensorParallel, WhatDoesNotDivideIsRefused) {
  for (const auto& [ranks, v] : std::vector<std::pair<int64_t, Variant>>{
           {3, {"heads", 3, 4, 2, 64, false, false, false}}, {2, {"tokens", 2, 4, 2, 64, false, true, false}}}) {
    const bool odd_tokens = v.sequence_parallel;
    EXPECT_THROW(run_tensor_parallel(ranks,
                                     [&](const Groups& groups) {
                                       Model shard(config_of(v), groups);
                                       Batch batch = random_batch(64);
                                       batch.tokens_BT = batch.tokens_BT.narrow(0, 0, 1).narrow(1, 0, odd_tokens ? 35 : 36);
                                       batch.document_starts_BT = at::Tensor();
                                       shard.logits(batch);
                                     }),
                 UserError)
        << v.name;
  }
}

}  // namespace
}  // namespace ponte
