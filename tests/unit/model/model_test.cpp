// The model's own promises: cached passes equal the plain one, gradients accumulate and respect what is frozen, unsupported configurations are refused.
#include "model/model.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "base/errors.h"
#include "model/kv_cache.h"
#include "models.h"

namespace ponte {
namespace {

ModelConfig tiny() {
  ModelConfig c = models::qwen3({.layers = 3, .hidden = 32, .ffn = 48, .heads = 4, .groups = 2, .head_dim = 16, .vocabulary = 97});
  c.init_method_std = 0.2;
  return c;
}

// Qwen3-Next's layers: linear, gated full, linear attention.
ModelConfig hybrid() {
  return models::with_linear_attention(
      tiny(), {.key_heads = 2, .value_heads = 4, .key_dim = 8, .value_dim = 12, .frequency = 2, .rotary_percent = 0.5});
}

Model model_of(const ModelConfig& config, at::ScalarType type = at::kFloat) {
  ModelOptions options;
  options.dtype = type;
  Model model(config, single_groups(), options);
  model.initialize(11);
  return model;
}

Batch batch_of(int64_t B, int64_t T) {
  at::manual_seed(4);
  Batch batch;
  batch.tokens_BT = at::randint(0, 97, {B, T}, at::kLong);
  batch.labels_BT = batch.tokens_BT.roll(-1, 1);
  return batch;
}

double distance(const at::Tensor& a, const at::Tensor& b) { return ((a - b).norm() / b.norm()).item<double>(); }

// The same weights, computed with in fp64.
at::Tensor exact_logits(Model& model, const Batch& batch) {
  Model exact = model_of(model.config(), at::kDouble);
  const auto from = model.parameters(), to = exact.parameters();
  at::NoGradGuard off;
  for (size_t i = 0; i < from.size(); ++i) to[i]->value.copy_(from[i]->value);
  return exact.logits(batch);
}

struct CacheCase {
  const char* name;
  int64_t rows;
  at::ScalarType type;
  std::optional<int64_t> window;
  bool linear = false;
};

// Cached passes round in other places than the plain one, so each is held to fp64: at most 1.2 times as far from it as the plain pass is, in fp64 1e-12.
TEST(CachedForward, InAnyCutIsAsExactAsThePlainPass) {
  const CacheCase cases[] = {{"one row", 1, at::kFloat, {}},
                             {"several rows", 3, at::kFloat, {}},
                             {"more rows than one token at a time takes", 11, at::kFloat, {}},
                             {"window", 2, at::kFloat, 7},
                             {"bf16", 2, at::kBFloat16, {}},
                             {"fp64", 2, at::kDouble, {}},
                             {"linear attention", 2, at::kFloat, {}, true},
                             {"linear attention, many rows", 11, at::kFloat, {}, true},
                             {"linear attention, bf16", 2, at::kBFloat16, {}, true},
                             {"linear attention, fp64", 2, at::kDouble, {}, true}};
  for (const CacheCase& c : cases) {
    ModelConfig config = c.linear ? hybrid() : tiny();
    if (c.window) config.window_size = c.window, config.layer_types = {"full_attention", "sliding_attention", "sliding_attention"};
    Model model = model_of(config, c.type);
    const Batch batch = batch_of(c.rows, 30);
    KvCache cache(model, c.rows, 30);
    std::vector<at::Tensor> parts;
    for (const auto& [from, count] : std::vector<std::pair<int64_t, int64_t>>{{0, 13}, {13, 1}, {14, 5}, {19, 1}, {20, 1}, {21, 9}})
      parts.push_back(model.forward(batch.tokens_BT.narrow(1, from, count), cache, {}, Logits::every_token));
    EXPECT_EQ(cache.length(0), 30);
    const at::Tensor exact = exact_logits(model, batch);
    const double plain = distance(model.logits(batch), exact), cached = distance(at::cat(parts, 1), exact);
    EXPECT_LE(cached, std::max(1.2 * plain, 1e-12)) << c.name;
  }
}

class OfEachKind : public testing::TestWithParam<ModelConfig (*)()> {};
INSTANTIATE_TEST_SUITE_P(CachedForward, OfEachKind, testing::Values(tiny, hybrid));

TEST_P(OfEachKind, RowsOfDifferentLengths) {
  Model model = model_of(GetParam()());
  const Batch batch = batch_of(3, 12);
  const std::vector<int64_t> counts = {12, 5, 8};
  KvCache cache(model, 3, 20);
  const at::Tensor first = model.forward(batch.tokens_BT, cache, counts);
  const at::Tensor next_token = at::full({3, 1}, 42, at::kLong), second = model.forward(next_token, cache);
  for (int64_t b = 0; b < 3; ++b) {
    EXPECT_EQ(cache.length(b), counts[b] + 1);
    Batch alone;
    alone.tokens_BT = at::cat({batch.tokens_BT.narrow(0, b, 1).narrow(1, 0, counts[b]), next_token.narrow(0, b, 1)}, 1);
    const at::Tensor wanted = model.logits(alone)[0];
    EXPECT_LT(distance(first[b], wanted[counts[b] - 1]), 1e-5);
    EXPECT_LT(distance(second[b], wanted[counts[b]]), 1e-5);
  }
}

TEST(CachedForward, RowsCanBeForgottenKeptAndFannedOut) {
  Model model = model_of(tiny());
  const Batch batch = batch_of(2, 9);
  const at::Tensor token = at::full({3, 1}, 5, at::kLong);
  KvCache cache(model, 2, 16);
  model.forward(batch.tokens_BT, cache);
  const at::Tensor wanted = model.forward(token.narrow(0, 0, 2), cache);
  cache.truncate(0, 9);
  cache.truncate(1, 9);
  cache.select_rows({1, 0, 1});
  const at::Tensor got = model.forward(token, cache);
  EXPECT_LT(distance(got, wanted.index_select(0, at::tensor({1, 0, 1}, at::kLong))), 1e-6);
}

TEST_P(OfEachKind, ACacheIsUsedAgain) {
  Model model = model_of(GetParam()());
  const Batch batch = batch_of(2, 9);
  const at::Tensor token = at::full({2, 1}, 5, at::kLong);
  KvCache cache(model, 2, 16);
  model.forward(batch.tokens_BT, cache);
  const at::Tensor wanted = model.forward(token, cache);
  cache.clear();
  model.forward(token, cache);
  EXPECT_EQ(cache.truncate(0, 0), 0);
  cache.truncate(1, 0);
  model.forward(batch.tokens_BT, cache);
  cache.select_rows({1, 0, 1});
  const at::Tensor got = model.forward(at::full({3, 1}, 5, at::kLong), cache);
  EXPECT_LT(distance(got, wanted.index_select(0, at::tensor({1, 0, 1}, at::kLong))), 1e-6);
}

TEST(CachedForward, LinearAttentionForgetsAllOrNothing) {
  Model model = model_of(hybrid());
  KvCache cache(model, 2, 16);
  model.forward(batch_of(2, 9).tokens_BT, cache);
  EXPECT_EQ(cache.truncate(0, 9), 9);
  EXPECT_EQ(cache.truncate(1, 8), 0);
  EXPECT_EQ(cache.length(1), 0);
}

// Two documents packed into a row give what each gives alone, forward and backward.
TEST_P(OfEachKind, PackedDocumentsDoNotSeeEachOther) {
  Model model = model_of(GetParam()(), at::kDouble);
  const Batch whole = batch_of(1, 90);
  Batch packed = whole;
  packed.document_starts_BT = at::cat({at::zeros({1, 70}, at::kLong), at::full({1, 20}, 70, at::kLong)}, 1);
  packed.position_ids_BT = at::arange(90).unsqueeze(0) - packed.document_starts_BT;
  std::vector<at::Tensor> alone;
  model.zero_gradients();
  for (const auto& [from, count] : std::vector<std::pair<int64_t, int64_t>>{{0, 70}, {70, 20}}) {
    Batch document;
    document.tokens_BT = whole.tokens_BT.narrow(1, from, count), document.labels_BT = whole.labels_BT.narrow(1, from, count);
    alone.push_back(model.logits(document));
    model.forward_loss(document).scaled.backward();
  }
  EXPECT_LT(distance(model.logits(packed), at::cat(alone, 1)), 1e-6);
  std::vector<at::Tensor> wanted;
  for (Parameter* p : model.parameters()) wanted.push_back(p->main_grad.clone());
  model.zero_gradients();
  model.forward_loss(packed).scaled.backward();
  for (size_t i = 0; i < wanted.size(); ++i) EXPECT_LT(distance(model.parameters()[i]->main_grad, wanted[i]), 1e-6) << model.parameters()[i]->name;
}

TEST_P(OfEachKind, AFinishedRowMayBeFull) {
  Model model = model_of(GetParam()());
  const Batch batch = batch_of(2, 8);
  KvCache cache(model, 2, 8), alone(model, 1, 8);
  model.forward(batch.tokens_BT, cache, std::vector<int64_t>{8, 5});
  model.forward(batch.tokens_BT.narrow(0, 1, 1).narrow(1, 0, 5), alone);
  const at::Tensor token = at::full({2, 1}, 9, at::kLong);
  for (int i = 0; i < 3; ++i)
    EXPECT_LT(distance(model.forward(token, cache, std::vector<int64_t>{0, 1})[1], model.forward(token.narrow(0, 0, 1), alone)[0]), 1e-5);
  EXPECT_EQ(cache.length(0), 8);
}

TEST(Model, TokensOutsideTheVocabularyAreAnError) {
  Model model = model_of(tiny());
  for (const int64_t id : {-1, 97}) {
    Batch batch = batch_of(1, 4);
    batch.tokens_BT[0][2] = id;
    EXPECT_THROW(model.logits(batch), UserError);
    KvCache cache(model, 1, 4);
    EXPECT_THROW(model.forward(batch.tokens_BT, cache), UserError);
    batch = batch_of(1, 4);
    batch.labels_BT[0][1] = id;
    at::NoGradGuard off;
    EXPECT_THROW(model.forward_loss(batch), UserError);
    batch.loss_mask_BT = at::ones({1, 4});
    batch.loss_mask_BT[0][1] = 0;
    EXPECT_NO_THROW(model.forward_loss(batch));
  }
}

TEST(CachedForward, AFullCacheIsAnError) {
  Model model = model_of(tiny());
  KvCache cache(model, 1, 4);
  model.forward(batch_of(1, 4).tokens_BT, cache);
  EXPECT_THROW(model.forward(batch_of(1, 1).tokens_BT, cache), UserError);
}

TEST(Gradients, TwoMicroBatchesAddUpAndFrozenParametersGetNone) {
  Model model = model_of(tiny(), at::kDouble);
  model.find_parameter("decoder.layers.1.mlp.linear_fc1.weight")->value.set_requires_grad(false);
  const Batch whole = batch_of(2, 10);
  const auto half = [&](int64_t row) {
    Batch batch;
    batch.tokens_BT = whole.tokens_BT.narrow(0, row, 1), batch.labels_BT = whole.labels_BT.narrow(0, row, 1);
    return batch;
  };
  model.zero_gradients();
  model.forward_loss(whole, 0.05).scaled.backward();
  std::vector<at::Tensor> together;
  for (Parameter* p : model.parameters()) together.push_back(p->main_grad.defined() ? p->main_grad.clone() : at::Tensor());
  model.zero_gradients();
  for (const int64_t row : {0, 1}) model.forward_loss(half(row), 0.05).scaled.backward();
  size_t i = 0;
  for (Parameter* p : model.parameters()) {
    const at::Tensor& wanted = together[i++];
    ASSERT_EQ(p->main_grad.defined(), p->value.requires_grad()) << p->name;
    if (wanted.defined()) {
      EXPECT_LT(distance(p->main_grad, wanted), 1e-12) << p->name;
    }
    EXPECT_FALSE(p->value.grad().defined()) << p->name;
  }
}

TEST(Gradients, DocumentsOfOneRowDoNotSeeEachOther) {
  Model model = model_of(tiny());
  Batch packed = batch_of(1, 20), first, second;
  packed.document_starts_BT = at::cat({at::zeros({1, 8}, at::kLong), at::full({1, 12}, 8, at::kLong)}, 1);
  packed.position_ids_BT = at::cat({at::arange(8), at::arange(12)}).unsqueeze(0);
  first.tokens_BT = packed.tokens_BT.narrow(1, 0, 8), second.tokens_BT = packed.tokens_BT.narrow(1, 8, 12);
  EXPECT_LT(distance(model.logits(packed), at::cat({model.logits(first), model.logits(second)}, 1)), 1e-5);
}

TEST(Gradients, WithoutAutogradOnlyTheLossIsComputed) {
  Model model = model_of(tiny());
  at::NoGradGuard off;
  const LossSum loss = model.forward_loss(batch_of(2, 6));  // no gradients allocated: touching them would be an internal error
  EXPECT_EQ(loss.valid_tokens, 12);
  EXPECT_NEAR(loss.sum.item<double>(), loss.token_losses_BT.sum().item<double>(), 1e-3);
}

TEST(Model, DecayClassesAndCounts) {
  Model model = model_of(tiny());
  const auto decay = [&](const char* name) { return model.find_parameter(name)->decay; };
  EXPECT_EQ(decay("embedding.word_embeddings.weight"), DecayClass::decayed);
  EXPECT_EQ(decay("decoder.layers.0.self_attention.q_layernorm.weight"), DecayClass::qk_layernorm);
  EXPECT_EQ(decay("decoder.final_layernorm.weight"), DecayClass::not_decayed);
  int64_t total = 0;
  for (Parameter* p : model.parameters()) total += p->value.numel();
  EXPECT_EQ(model.parameter_count(), total);
}

TEST(Model, WhatItCannotBuildIsRefused) {
  const std::vector<std::pair<const char*, void (*)(ModelConfig&)>> cases = {
      {"normalization", [](ModelConfig& c) { c.normalization = "LayerNorm"; }},
      {"activation_func", [](ModelConfig& c) { c.activation_func = "gelu"; }},
      {"dropout", [](ModelConfig& c) { c.hidden_dropout = 0.1; }},
      {"rope_scaling_type", [](ModelConfig& c) { c.rope_scaling_type = "longrope"; }},
      {"recompute_method", [](ModelConfig& c) { c.recompute_granularity = "full"; }},
      {"window_size", [](ModelConfig& c) { c.layer_types = {"full_attention", "full_attention", "sliding_attention"}; }},
  };
  for (const auto& [part, change] : cases) {
    ModelConfig config = tiny();
    change(config);
    try {
      Model model(config);
      FAIL() << part;
    } catch (const UserError& error) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  }
}

}  // namespace
}  // namespace ponte
