// Guessed tokens change nothing but the number of passes: the loop gives what the plain loop gives, token for token, greedy and drawn, whatever the
// depths, the guesses and the batch; and the states that are taken back are those of a cache that never went further.
#include "model/speculation.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "base/errors.h"
#include "generate/decode_loop.h"
#include "generate/sampler.h"
#include "model/kv_cache.h"

namespace ponte {
namespace {

using Tokens = std::vector<int32_t>;

constexpr int64_t kVocabulary = 13;  // so few that random guesses are often right

Model hybrid_model(int64_t depths, at::ScalarType type) {
  ModelConfig c;
  c.model_type = "qwen3_next";
  c.hf_architecture = "Qwen3NextForCausalLM";
  c.num_layers = 3;
  c.layer_types = {"linear_attention", "full_attention", "linear_attention"};
  c.mtp_num_layers = depths;
  c.hidden_size = 32;
  c.ffn_hidden_size = 48;
  c.num_moe_experts = 4;
  c.moe_router_topk = 2;
  c.moe_ffn_hidden_size = 24;
  c.moe_shared_expert_intermediate_size = 16;
  c.moe_shared_expert_gate = true;
  c.num_attention_heads = 4;
  c.num_query_groups = 2;
  c.kv_channels = 16;
  c.vocab_size = kVocabulary;
  c.max_position_embeddings = 128;
  c.qk_layernorm = c.layernorm_zero_centered_gamma = c.attention_output_gate = true;
  c.rotary_percent = 0.5;
  c.experimental_attention_variant = "gated_delta_net";
  c.linear_conv_kernel_dim = 4;
  c.linear_key_head_dim = 8;
  c.linear_value_head_dim = 12;
  c.linear_num_key_heads = 2;
  c.linear_num_value_heads = 4;
  c.init_method_std = 0.3;
  Model model(c, single_groups(), {.dtype = type});
  model.initialize(7);
  return model;
}

const std::vector<Tokens> kPrompts = {{5, 9, 11, 4, 2}, {1}, {9, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3}, {7, 7, 7}};

struct Text {
  std::vector<Tokens> tokens;
  Guesses guesses;
};

// Sequence i ends after lengths[i] tokens, all after 20.
Text run(Model& model, const std::vector<Tokens>& prompts, int64_t guesses, const std::vector<size_t>& lengths, double temperature) {
  Text out{std::vector<Tokens>(prompts.size()), {}};
  const SamplingOptions sampling{.temperature = temperature, .seed = 3};
  const PickToken pick = [&](size_t sequence, int64_t step, std::span<const float> logits) {
    EXPECT_EQ(logits.size(), static_cast<size_t>(kVocabulary));
    return next_token(logits, sampling, sequence, static_cast<uint64_t>(step));
  };
  const TakeToken take = [&](size_t sequence, int32_t id) {
    out.tokens[sequence].push_back(id);
    return out.tokens[sequence].size() < lengths[sequence];
  };
  if (guesses == 0)
    decode_loop(model, prompts, 20, pick, take);
  else
    out.guesses = speculative_loop(model, prompts, 20, guesses, pick, take);
  return out;
}

TEST(Speculation, GivesWhatThePlainLoopGives) {
  const std::vector<size_t> lengths = {99, 3, 1, 14};
  for (const at::ScalarType type : {at::kFloat, at::kDouble})
    for (const int64_t depths : {1, 2}) {
      Model model = hybrid_model(depths, type);
      for (const double temperature : {0.0, 1.0}) {
        const Text wanted = run(model, kPrompts, 0, lengths, temperature);
        int64_t kept = 0;
        for (const int64_t guesses : {1, 2, 3, 8}) {
          const Text got = run(model, kPrompts, guesses, lengths, temperature);
          EXPECT_EQ(got.tokens, wanted.tokens) << depths << " depths, " << guesses << " guesses, temperature " << temperature;
          kept += got.guesses.kept;
          EXPECT_LT(got.guesses.kept, got.guesses.made);
        }
        EXPECT_GT(kept, 0) << "no guess was right: what is kept was not tried";
      }
    }
}

TEST(Speculation, CountsWhatIsKept) {
  Model model = hybrid_model(1, at::kFloat);
  const Text got = run(model, {kPrompts[0]}, 1, {99}, 0);
  // Every pass but the first, over the prompt, gives one token and one more for each guess that is kept; the last pass may have had no guess.
  const int64_t passes = 20 - 1 - got.guesses.kept;
  EXPECT_GE(got.guesses.made, passes - 1);
  EXPECT_LE(got.guesses.made, passes);
}

// bf16 as well, whose cached keys are rounded.
TEST(Speculation, WhatIsTakenBackLeavesNothing) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kDouble}) {
    Model model = hybrid_model(1, type);
    const at::Tensor tokens = at::tensor({3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8}, at::kLong).view({2, 6});
    KvCache straight(model, 2, 16), cache(model, 2, 16);
    cache.allow_take_back(4);
    model.forward(tokens.narrow(1, 0, 2), straight);
    model.forward(tokens.narrow(1, 0, 2), cache);
    const std::vector<int64_t> appended = {1, 3};
    const at::Tensor wrong = at::full({2, 4}, 11, at::kLong);
    for (int64_t b = 0; b < 2; ++b) wrong[b].narrow(0, 0, appended[b]).copy_(tokens[b].narrow(0, 2, appended[b]));
    model.forward(wrong, cache);
    for (int64_t b = 0; b < 2; ++b) cache.take_back(b, 4 - appended[b]);
    for (int64_t t = 0; t < 3; ++t) model.forward(tokens.narrow(1, 2 + t, 1), straight, std::vector<int64_t>{t < 1, 1});
    EXPECT_EQ(cache.lengths(), straight.lengths());
    const at::Tensor next = at::tensor({6, 10}, at::kLong).view({2, 1});
    const at::Tensor got = model.forward(next, cache), wanted = model.forward(next, straight);
    EXPECT_LT(((got - wanted).norm() / wanted.norm()).item<double>(), type == at::kDouble ? 1e-12 : type == at::kFloat ? 1e-5 : 2e-2);
  }
}

TEST(Speculation, NeedsPredictionLayers) {
  Model model = hybrid_model(0, at::kFloat);
  EXPECT_THROW(Speculation(model, 1, 10, 1), UserError);
}

}  // namespace
}  // namespace ponte
