// Tensor parallelism of Qwen3-Next's layers (gated delta nets cut by key heads, gated attention cut by query groups or shared within one) changes no
// number: loss, logits, every gradient and greedy tokens equal one process's.
#include "equality.h"
#include "model/kv_cache.h"

namespace ponte {
namespace {

struct Variant {
  const char* name;
  int64_t ranks, heads, groups, key_heads, value_heads;
  bool tied = false, sequence_parallel = false;
  const char* recompute = "";
};

void PrintTo(const Variant& v, std::ostream* out) { *out << v.name; }

ModelConfig config_of(const Variant& v) {
  ModelConfig c = models::with_linear_attention(
      models::qwen3({.layers = 3, .hidden = 40, .ffn = 56, .heads = v.heads, .groups = v.groups, .head_dim = 16, .vocabulary = 61}),
      {.key_heads = v.key_heads, .value_heads = v.value_heads, .key_dim = 8, .value_dim = 12, .frequency = 2});
  c.share_embeddings_and_output_weights = v.tied;
  c.sequence_parallel = v.sequence_parallel;
  c.recompute_granularity = v.recompute[0] ? "full" : "";
  c.recompute_method = v.recompute;
  return c;
}

class GatedDeltaParallel : public testing::TestWithParam<Variant> {};

TEST_P(GatedDeltaParallel, LossLogitsAndEveryGradient) {
  expect_tensor_parallel_equality(config_of(GetParam()), GetParam().ranks);
}

INSTANTIATE_TEST_SUITE_P(Next, GatedDeltaParallel,
                         testing::Values(Variant{"two ranks", 2, 4, 2, 2, 4}, Variant{"one value head for each key head, tied", 2, 4, 2, 4, 4, true},
                                         Variant{"four ranks, two query groups", 4, 8, 2, 4, 8}, Variant{"sequence parallel", 2, 4, 2, 2, 8, true, true},
                                         Variant{"recompute", 2, 4, 2, 2, 4, false, true, "uniform"}));

TEST(GatedDeltaParallel, CachedGenerationGivesTheSameTokens) {
  const Variant v{"", 2, 4, 2, 2, 4};
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

}  // namespace
}  // namespace ponte
