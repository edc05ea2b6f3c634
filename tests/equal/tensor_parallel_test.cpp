// Tensor parallelism changes no number: loss and every gradient of a dense model over 2 and 4 ranks (threads) equal one process's, norm-relative per
// tensor (equality.h has the bounds).
#include "base/errors.h"
#include "equality.h"
#include "model/kv_cache.h"

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
  ModelConfig c = models::qwen3({.layers = 2, .hidden = 40, .ffn = 56, .heads = v.heads, .groups = v.groups, .head_dim = 12, .vocabulary = v.vocabulary});
  if (v.qwen2) {
    c.model_type = "qwen2";
    c.hf_architecture = "Qwen2ForCausalLM";
    c.qk_layernorm = false;
    c.add_qkv_bias = true;
  }
  c.share_embeddings_and_output_weights = v.tied;
  c.sequence_parallel = v.sequence_parallel;
  c.recompute_granularity = v.recompute[0] ? "full" : "";
  c.recompute_method = v.recompute;
  return c;
}

class TensorParallelEquality : public testing::TestWithParam<Variant> {};

TEST_P(TensorParallelEquality, LossLogitsAndEveryGradient) {
  expect_tensor_parallel_equality(config_of(GetParam()), GetParam().ranks);
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
      for_pieces(*p, whole.find_parameter(p->name)->value, p->value,
                 [&](const at::Tensor& a, const at::Tensor& b) { EXPECT_TRUE(at::equal(a, b)) << p->name; });
  });
}

TEST(TensorParallel, CachedGenerationGivesTheSameTokens) {
  const Variant v{"", 2, 4, 2, 61, true, false, false};
  const auto generate = [&](Model& model) {
    fill(model.parameters(), model.config());
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
