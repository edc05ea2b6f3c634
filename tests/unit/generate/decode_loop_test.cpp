// The token loop over a small random model: batches of unequal prompts, sequences that leave early, and continued caches give what one prompt alone
// gives; and what that is, follows from the logits without a cache.
#include "generate/decode_loop.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "generate/sampler.h"
#include "models.h"

namespace ponte {
namespace {

using Tokens = std::vector<int32_t>;

Model small_model() {
  ModelConfig config = models::qwen3({.layers = 2, .hidden = 32, .ffn = 48, .heads = 4, .groups = 2, .head_dim = 8, .vocabulary = 97});
  config.init_method_std = 0.3;
  Model model(config, single_groups(), {.dtype = at::kDouble});
  model.initialize(7);
  return model;
}

const std::vector<Tokens> kPrompts = {{5, 9, 11, 40, 2}, {1}, {90, 91, 92, 93, 94, 95, 96, 0, 1, 2, 3}, {7, 7, 7}};

// Lengths at which each sequence stops.
std::vector<Tokens> run(Model& model, const std::vector<Tokens>& prompts, const std::vector<size_t>& lengths, int64_t most) {
  std::vector<Tokens> out(prompts.size());
  decode_loop(model, prompts, most, [](size_t, int64_t, std::span<const float> logits) { return most_likely(logits); },
              [&](size_t sequence, int32_t id) {
                out[sequence].push_back(id);
                return out[sequence].size() < lengths[sequence];
              });
  return out;
}

Tokens without_cache(Model& model, Tokens tokens, int64_t count) {
  Tokens out;
  for (int64_t i = 0; i < count; ++i) {
    const at::Tensor logits_1TV = model.logits({.tokens_BT = at::tensor(tokens, at::kInt).to(at::kLong).unsqueeze(0)});
    out.push_back(static_cast<int32_t>(logits_1TV.select(1, -1).argmax().item<int64_t>()));
    tokens.push_back(out.back());
  }
  return out;
}

TEST(DecodeLoop, EqualsTheLogitsWithoutACache) {
  Model model = small_model();
  for (const Tokens& prompt : kPrompts) EXPECT_EQ(run(model, {prompt}, {12}, 12)[0], without_cache(model, prompt, 12));
}

TEST(DecodeLoop, SequencesThatLeaveDoNotDisturbTheOthers) {
  Model model = small_model();
  const std::vector<size_t> lengths = {3, 12, 1, 7};
  const std::vector<Tokens> together = run(model, kPrompts, lengths, 10);
  for (size_t i = 0; i < kPrompts.size(); ++i) {
    const size_t wanted = std::min<size_t>(lengths[i], 10);
    EXPECT_EQ(together[i], run(model, {kPrompts[i]}, {wanted}, 10)[0]) << "prompt " << i;
    EXPECT_EQ(together[i].size(), wanted);
  }
}

TEST(DecodeLoop, NothingToDo) {
  Model model = small_model();
  EXPECT_TRUE(run(model, {}, {}, 5).empty());
  EXPECT_TRUE(run(model, {{1, 2}}, {5}, 0)[0].empty());
}

TEST(DecodeLoop, AContinuedCacheEqualsAFreshOne) {
  Model model = small_model();
  const Tokens context = {4, 8, 15, 16, 23, 42, 3, 1};
  KvCache cache(model, 1, 64);
  Tokens first, second;
  const auto pick = [](size_t, int64_t, std::span<const float> logits) { return most_likely(logits); };
  continue_sequence(model, cache, std::span(context).first(5), 6, pick, [&](size_t, int32_t id) { return first.push_back(id), true; });
  EXPECT_EQ(first, run(model, {{4, 8, 15, 16, 23}}, {6}, 6)[0]);
  EXPECT_EQ(cache.length(0), 5 + 5);  // the last token taken is not in the cache
  cache.truncate(0, 5);
  continue_sequence(model, cache, std::span(context).subspan(5), 6, pick, [&](size_t, int32_t id) { return second.push_back(id), true; });
  EXPECT_EQ(second, run(model, {context}, {6}, 6)[0]);
}

TEST(DecodeLoop, ACacheGrowsWithItsSequences) {
  Model model = small_model();
  const Tokens context = {4, 8, 15, 16, 23};
  const auto pick = [](size_t, int64_t, std::span<const float> logits) { return most_likely(logits); };
  Tokens in_one_piece, growing;
  KvCache large(model, 1, 128), small(model, 1, 1);
  continue_sequence(model, large, context, 100, pick, [&](size_t, int32_t id) { return in_one_piece.push_back(id), true; });
  continue_sequence(model, small, context, 100, pick, [&](size_t, int32_t id) { return growing.push_back(id), true; });
  EXPECT_EQ(growing, in_one_piece);
  EXPECT_GE(small.max_tokens(), 104);
  // Rows of different lengths, and far more new tokens asked for than will come.
  const std::vector<size_t> lengths = {90, 3, 80, 1};
  EXPECT_EQ(run(model, kPrompts, lengths, int64_t{1} << 60)[2], run(model, {kPrompts[2]}, {80}, 80)[0]);
}

}  // namespace
}  // namespace ponte
