// The rules of dense families: names, segments, shapes.
#include <gtest/gtest.h>

#include <set>

#include "base/errors.h"
#include "families/registry.h"
#include "models.h"

namespace ponte {
namespace {

ModelConfig config_of(const char* architecture, bool tied) {
  ModelConfig c = models::qwen3({.layers = 2, .hidden = 8, .ffn = 12, .heads = 4, .groups = 2, .head_dim = 3, .vocabulary = 17});
  c.hf_architecture = architecture;
  c.add_qkv_bias = std::string_view(architecture) == "Qwen2ForCausalLM";
  c.qk_layernorm = !c.add_qkv_bias;
  c.share_embeddings_and_output_weights = tied;
  return c;
}

int64_t numel(const Shape& shape) {
  int64_t n = 1;
  for (int64_t e : shape) n *= e;
  return n;
}

TEST(Rules, NamesOfBothSides) {
  std::set<std::string> live, hf;
  for (const Rule& rule : rule_table(config_of("Qwen3ForCausalLM", false)).rules) {
    live.insert(rule.name());
    for (const Source& source : rule.sources) hf.insert(source.name);
  }
  for (const char* name : {"embedding.word_embeddings.weight", "output_layer.weight", "decoder.final_layernorm.weight",
                           "decoder.layers.1.self_attention.linear_qkv.layer_norm_weight", "decoder.layers.1.self_attention.linear_qkv.weight",
                           "decoder.layers.0.self_attention.q_layernorm.weight", "decoder.layers.0.self_attention.linear_proj.weight",
                           "decoder.layers.0.mlp.linear_fc1.layer_norm_weight", "decoder.layers.0.mlp.linear_fc1.weight",
                           "decoder.layers.0.mlp.linear_fc2.weight"})
    EXPECT_TRUE(live.contains(name)) << name;
  for (const char* name : {"model.embed_tokens.weight", "lm_head.weight", "model.norm.weight", "model.layers.1.self_attn.k_norm.weight",
                           "model.layers.0.self_attn.v_proj.weight", "model.layers.0.mlp.up_proj.weight"})
    EXPECT_TRUE(hf.contains(name)) << name;
  EXPECT_EQ(live.size(), 3 + 2 * 8u);
  EXPECT_EQ(hf.size(), 3 + 2 * 11u);
}

// Every element of every HF tensor feeds exactly one element of exactly one parameter, and every parameter is fed throughout.
TEST(Rules, BoxesAreABijection) {
  for (const char* architecture : {"Qwen2ForCausalLM", "Qwen3ForCausalLM"}) {
    std::map<std::string, std::vector<int>> used;
    for (const Rule& rule : rule_table(config_of(architecture, false)).rules) {
      int64_t rows = 0;
      for (const Segment& segment : rule.segments) {
        std::vector<int> filled(numel(segment.shape), 0);
        for (const Box& box : segment.boxes) {
          const Source& source = rule.sources.at(box.source);
          std::vector<int>& hf = used.try_emplace(source.name, numel(source.shape), 0).first->second;
          std::vector<int64_t> index(box.axes.size(), 0);
          for (bool more = true; more;) {
            int64_t from = box.hf_origin;
            Shape at = box.native_origin;
            for (size_t a = 0; a < index.size(); ++a) {
              from += index[a] * box.axes[a].hf_stride;
              at[box.axes[a].native_dim] += index[a] * box.axes[a].native_step;
            }
            int64_t to = 0;
            for (size_t d = 0; d < at.size(); ++d) to = to * segment.shape[d] + at[d];
            ++hf.at(from);
            ++filled.at(to);
            more = false;
            for (size_t a = index.size(); a-- > 0 && !more;) {
              if (++index[a] < box.axes[a].extent) more = true;
              else index[a] = 0;
            }
          }
        }
        EXPECT_EQ(std::count(filled.begin(), filled.end(), 1), numel(segment.shape)) << rule.name();
        rows += segment.shape[0];
      }
      EXPECT_EQ(rows, rule.shape[0]) << rule.name();
    }
    for (const auto& [name, counts] : used) EXPECT_EQ(std::count(counts.begin(), counts.end(), 1), static_cast<int64_t>(counts.size())) << name;
  }
}

TEST(Rules, TiedHeadIsAnAlias) {
  const RuleTable table = rule_table(config_of("Qwen2ForCausalLM", true));
  EXPECT_THROW(table.find("output_layer.weight"), UserError);
  ASSERT_EQ(table.aliases.size(), 1u);
  EXPECT_EQ(table.aliases[0].hf_name, "lm_head.weight");
  EXPECT_EQ(table.aliases[0].same_as, "model.embed_tokens.weight");
}

TEST(Rules, UnknownNameGivesTheNearest) {
  try {
    rule_table(config_of("Qwen3ForCausalLM", true)).find("decoder.layers.0.mlp.linear_fc3.weight");
    FAIL();
  } catch (const UserError& e) {
    EXPECT_NE(std::string(e.what()).find("decoder.layers.0.mlp.linear_fc"), std::string::npos);
  }
}

}  // namespace
}  // namespace ponte
