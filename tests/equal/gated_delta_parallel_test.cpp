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
  ModelConfig c;
  c.model_type = "qwen3_next";
  c.hf_architecture = "Qwen3NextForCausalLM";
  c.num_layers = 3;
  c.layer_types = {"linear_attention", "full_attention", "linear_attention"};
  c.hidden_size = 40;
  c.ffn_hidden_size = 56;
  c.num_attention_heads = v.heads;
  c.num_query_groups = v.groups;
  c.kv_channels = 16;
  c.rotary_percent = 0.25;
  c.vocab_size = 61;
  c.max_position_embeddings = 128;
  c.qk_layernorm = c.layernorm_zero_centered_gamma = c.attention_output_gate = true;
  c.experimental_attention_variant = "gated_delta_net";
  c.linear_conv_kernel_dim = 4;
  c.linear_key_head_dim = 8;
  c.linear_value_head_dim = 12;
  c.linear_num_key_heads = v.key_heads;
  c.linear_num_value_heads = v.value_heads;
  c.share_embeddings_and_output_weights = v.tied;
  c.sequence_parallel = v.sequence_parallel;
  c.recompute_granularity = v.recompute[0] ? "full" : "";
  c.recompute_method = v.recompute;
  return c;
}

class GatedDeltaParallel : public testing::TestWithParam<Variant> {};

TEST_P(GatedDeltaParallel, LossLogitsAndEveryGradient) {
  const Variant& v = GetParam();
  ModelConfig alone = config_of(v);
  alone.sequence_parallel = false;
  alone.recompute_granularity = "";
  // Weights this large make the recurrence amplify fp32's rounding; fp64 is the proof.
  expect_tensor_parallel_equality(alone, config_of(v), v.ranks, 5e-5);
}

INSTANTIATE_TEST_SUITE_P(Next, GatedDeltaParallel,
                         testing::Values(Variant{"two ranks", 2, 4, 2, 2, 4}, Variant{"one value head for each key head, tied", 2, 4, 2, 4, 4, true},
                                         Variant{"four ranks, two query groups", 4, 8, 2, 4, 8}, Variant{"sequence parallel", 2, 4, 2, 2, 8, true, true},
                                         Variant{"recompute", 2, 4, 2, 2, 4, false, true, "uniform"}));

TEST(GatedDeltaParallel, CachedGenerationGivesTheSameTokens) {
  const Variant v{"", 2, 4, 2, 2, 4};
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

}  // namespace
}  // namespace ponte
