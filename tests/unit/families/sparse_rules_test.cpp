// Routed experts, gated attention and gated delta nets.
#include <nlohmann/json.hpp>
#include <set>

#include "base/errors.h"
#include "bijection.h"
#include "families/facts.h"
#include "families/moe_blocks.h"
#include "families/registry.h"
#include "layout/placement.h"
#include "models.h"

namespace ponte {
namespace {

ModelConfig sparse_config() {
  return models::with_experts(models::qwen3({.layers = 4, .hidden = 8, .ffn = 12, .heads = 4, .groups = 2, .head_dim = 3, .vocabulary = 17}),
                              {.count = 3, .chosen = 2, .ffn = 5});
}

ModelConfig next_config() {
  ModelConfig c = models::with_linear_attention(models::with_shared_expert(sparse_config(), 6),
                                                {.key_heads = 2, .value_heads = 6, .key_dim = 3, .value_dim = 4, .frequency = 4});
  c.mtp_num_layers = 1;
  return c;
}

TEST(SparseRules, BijectionForEveryExpertStorage) {
  const ModelConfig c = sparse_config();
  const int64_t H = c.hidden_size, F = c.moe_ffn_hidden_size, E = c.num_moe_experts;
  expect_bijection(qwen3_moe::rules(c, {}));
  for (const bool out_in : {true, false}) {
    HfTensors present;
    for (int64_t layer = 0; layer < c.num_layers; ++layer) {
      const std::string hf = format("model.layers.{}.mlp.experts.", layer);
      present[hf + "gate_up_proj"] = out_in ? Shape{E, 2 * F, H} : Shape{E, H, 2 * F};
      present[hf + "down_proj"] = out_in ? Shape{E, H, F} : Shape{E, F, H};
    }
    const RuleTable table = qwen3_moe::rules(c, present);
    expect_bijection(table);
    // Element (row 1 of up, column 2) of expert 2, where each orientation keeps it.
    const Rule& fc1 = table.find("decoder.layers.0.mlp.experts.linear_fc1.weight2");
    size_t found = 0;
    for_each_element(fc1.segments[1].boxes[0], fc1.segments[1], [&](size_t from, size_t to) { if (to == size_t(1 * H + 2)) found = from; });
    EXPECT_EQ(static_cast<int64_t>(found), out_in ? (2 * 2 * F + F + 1) * H + 2 : (2 * H + 2) * 2 * F + F + 1);
  }
}

TEST(SparseRules, SquareExpertsAreDecidedByTheirSibling) {
  ModelConfig c = sparse_config();
  const int64_t E = c.num_moe_experts, H = c.hidden_size;
  auto storage = [&](int64_t ffn, Shape gate_up, Shape down) {
    c.moe_ffn_hidden_size = ffn;
    return expert_storage("l.", c, {{"l.mlp.experts.gate_up_proj", gate_up}, {"l.mlp.experts.down_proj", down}});
  };
  // gate_up square: 2F = H; down tells.
  EXPECT_EQ(storage(H / 2, {E, H, H}, {E, H, H / 2}), ExpertStorage::packed_out_in);
  EXPECT_EQ(storage(H / 2, {E, H, H}, {E, H / 2, H}), ExpertStorage::packed_in_out);
  // down square: F = H; gate_up tells.
  EXPECT_EQ(storage(H, {E, 2 * H, H}, {E, H, H}), ExpertStorage::packed_out_in);
  EXPECT_EQ(storage(H, {E, H, 2 * H}, {E, H, H}), ExpertStorage::packed_in_out);
  EXPECT_THROW(storage(H, {E, 2 * H, H + 1}, {E, H, H}), UserError);
  EXPECT_THROW(expert_storage("l.", c, {{"l.mlp.experts.gate_up_proj", {E, 2 * H, H}}}), UserError);
  EXPECT_THROW(expert_storage("l.", c, {{"l.mlp.experts.gate_up_proj", {E, 2 * H, H}}, {"l.mlp.experts.down_proj", {E, H, H}},
                                        {"l.mlp.experts.0.gate_proj.weight", {H, H}}}), UserError);
}

// Each layer alone would be unambiguous; where gate_up is square, a down matrix turned in one layer would turn its gate_up too.
TEST(SparseRules, LayersWithDifferentLayoutsAreRefused) {
  ModelConfig c = sparse_config();
  c.hf_architecture = "Qwen3MoeForCausalLM";
  c.moe_ffn_hidden_size = c.hidden_size / 2;
  const int64_t E = c.num_moe_experts, H = c.hidden_size;
  const auto add = [&](HfTensors& to, int64_t layer, ExpertStorage storage) {
    const std::string hf = format("model.layers.{}.mlp.experts.", layer);
    if (storage == ExpertStorage::per_expert) to[hf + "0.gate_proj.weight"] = {H / 2, H};
    if (storage == ExpertStorage::per_expert) return;
    to[hf + "gate_up_proj"] = {E, H, H};
    to[hf + "down_proj"] = storage == ExpertStorage::packed_out_in ? Shape{E, H, H / 2} : Shape{E, H / 2, H};
  };
  constexpr ExpertStorage kAll[] = {ExpertStorage::per_expert, ExpertStorage::packed_out_in, ExpertStorage::packed_in_out};
  for (const ExpertStorage first : kAll)
    for (const ExpertStorage later : kAll) {
      HfTensors present;
      for (int64_t layer = 0; layer < c.num_layers; ++layer) add(present, layer, layer < 2 ? first : later);
      if (first == later) EXPECT_NO_THROW(rule_table(c, present));
      else EXPECT_THROW(rule_table(c, present), UserError);
    }
  // Prediction layers have a layout of their own.
  ModelConfig next = next_config();
  next.hf_architecture = "Qwen3NextForCausalLM";
  HfTensors present;
  next.moe_ffn_hidden_size = H / 2;
  for (int64_t layer = 0; layer < next.num_layers; ++layer) add(present, layer, ExpertStorage::packed_out_in);
  present["mtp.layers.0.mlp.experts.0.gate_proj.weight"] = {H / 2, H};
  EXPECT_NO_THROW(rule_table(next, present));
}

// Names decide whether routers have a bias; config.json keeps what else a run has set, and forgets it when it is taken back.
TEST(SparseRules, RoutersOfARunSurviveTheConfig) {
  ModelConfig c = sparse_config();
  c.hf_architecture = "Qwen3MoeForCausalLM";
  c.model_type = "qwen3_moe";
  EXPECT_EQ(router_of_its_own(c), "");
  const Json plain = hf_config_from_model(c);
  EXPECT_FALSE(plain.contains("scoring_func") || plain.contains("routed_scaling_factor") || plain.contains("n_group") || plain.contains("topk_group"));
  c.moe_router_score_function = "sigmoid";
  c.moe_router_topk_scaling_factor = 2.5;
  c.moe_router_num_groups = 3;
  c.moe_router_group_topk = 2;
  ModelConfig back = model_config_from_hf(hf_config_from_model(c), "test");
  EXPECT_EQ(back.moe_router_score_function, "sigmoid");
  EXPECT_EQ(back.moe_router_topk_scaling_factor, 2.5);
  EXPECT_EQ(back.moe_router_num_groups, 3);
  EXPECT_EQ(back.moe_router_group_topk, 2);
  read_presence({{"model.layers.0.mlp.gate.e_score_correction_bias", {3}}}, back);
  EXPECT_TRUE(back.moe_router_enable_expert_bias);
  EXPECT_EQ(router_of_its_own(back), "sigmoid scores, a bias for each expert, a factor on the experts' weights, groups of experts");
  read_presence({{"model.layers.0.mlp.gate.weight", {3, 8}}}, back);
  EXPECT_FALSE(back.moe_router_enable_expert_bias);
  back.moe_router_score_function = "softmax";
  EXPECT_FALSE(hf_config_from_model(back).contains("scoring_func"));
  Json wrong = plain;
  wrong["scoring_func"] = "tanh";
  EXPECT_THROW(model_config_from_hf(wrong, "test"), UserError);
}

TEST(SparseRules, NextIsABijectionInBothSpellings) {
  const ModelConfig c = next_config();
  expect_bijection(qwen3_next::rules(c, {}));
  HfTensors separate;
  for (int layer = 0; layer < 3; ++layer) separate[format("model.layers.{}.linear_attn.in_proj_qkv.weight", layer)] = {};
  expect_bijection(qwen3_next::rules(c, separate));
}

// Megatron's order inside a query group is queries, gates, key, value; HF's q_proj alternates query and gate by head.
TEST(SparseRules, GatedQueryRows) {
  const ModelConfig c = next_config();
  const RuleTable table = qwen3_next::rules(c, {});
  const Rule& qkv = table.find("decoder.layers.3.self_attention.linear_qkv.weight");
  const int64_t D = c.kv_channels, H = c.hidden_size;
  ASSERT_EQ(qkv.shape, (Shape{(2 * 4 + 2 * 2) * D, H}));
  std::map<size_t, std::pair<std::string, size_t>> origin;  // native row -> HF tensor, row
  for (const Box& box : qkv.segments[0].boxes)
    for_each_element(box, qkv.segments[0], [&](size_t from, size_t to) {
      if (to % H == 0) origin[to / H] = {qkv.sources[static_cast<size_t>(box.source)].name, from / H};
    });
  const std::string q = "model.layers.3.self_attn.q_proj.weight", k = "model.layers.3.self_attn.k_proj.weight";
  EXPECT_EQ(origin[0], std::make_pair(q, size_t{0}));                          // group 0, query of head 0
  EXPECT_EQ(origin[static_cast<size_t>(D)], std::make_pair(q, size_t(2 * D)));      // query of head 1
  EXPECT_EQ(origin[static_cast<size_t>(2 * D)], std::make_pair(q, size_t(D)));      // gate of head 0
  EXPECT_EQ(origin[static_cast<size_t>(4 * D)], std::make_pair(k, size_t{0}));      // key of group 0
  EXPECT_EQ(origin[static_cast<size_t>(6 * D)], std::make_pair(q, size_t(4 * D)));  // group 1, query of head 2
}

// A rank's share is its key heads' part of every segment: shard first, then fuse.
TEST(SparseRules, GatedDeltaNetIsCutByKeyHeads) {
  const ModelConfig c = next_config();
  const RuleTable table = qwen3_next::rules(c, {});
  const Slice slice = slice_of(table.find("decoder.layers.0.self_attention.in_proj.weight"), {.rank = 1, .size = 2});
  ASSERT_EQ(slice.segments.size(), 6u);
  const int64_t local[] = {3, 3, 12, 12, 3, 3};  // query, key, value, z, beta, alpha of one key head
  for (size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(slice.segments[i].shape[0], local[i]);
    EXPECT_EQ(slice.segments[i].intervals[0].begin, local[i]);
  }
  EXPECT_EQ(slice_of(table.find("decoder.layers.0.self_attention.out_proj.weight"), {.rank = 0, .size = 2}).shape, (Shape{8, 12}));
  EXPECT_EQ(slice_of(table.find("decoder.layers.0.self_attention.A_log"), {.rank = 0, .size = 2}).shape, (Shape{3}));
}

// What the tensors say overrules the config, both ways, and the table follows the config.
TEST(SparseRules, PredictionDepthsAreReadFromNames) {
  const struct {
    const char* name;
    int64_t config;
    HfTensors present;
    int64_t depths;
  } cases[] = {
      {"config alone", 1, {{"model.norm.weight", {8}}}, 0},
      {"tensors alone", 0, {{"mtp.fc.weight", {8, 16}}}, 1},
      {"two", 0, {{"mtp.fc.weight", {8, 16}}, {"mtp.depth1.fc.weight", {8, 16}}}, 2},
      {"a gap", 0, {{"mtp.depth1.fc.weight", {8, 16}}}, 0},
  };
  for (const auto& test : cases) {
    ModelConfig c = next_config();
    c.hf_architecture = "Qwen3NextForCausalLM";
    c.mtp_num_layers = test.config;
    read_presence(test.present, c);
    EXPECT_EQ(c.mtp_num_layers, test.depths) << test.name;
    int64_t found = 0;
    for (const Rule& rule : rule_table(c, test.present).rules) found += rule.leaf == "mtp_model_layer.self_attention.linear_qkv.weight";
    EXPECT_EQ(found, test.depths) << test.name;
  }
  ModelConfig dense;
  dense.hf_architecture = "Qwen3ForCausalLM";
  read_presence({{"mtp.fc.weight", {8, 16}}}, dense);
  EXPECT_EQ(dense.mtp_num_layers, 0);
}

TEST(SparseRules, SeveralDepthsAreABijection) {
  ModelConfig c = next_config();
  c.mtp_num_layers = 3;
  expect_bijection(qwen3_next::rules(c, {}));
}

TEST(SparseRules, StorageOfReleases) {
  ModelConfig c = next_config();
  const auto sources = [](const RuleTable& table, std::string_view part) {
    std::set<std::string> out;
    for (const Rule& rule : table.rules)
      for (const Source& source : rule.sources)
        if (source.name.find(part) != std::string::npos) out.insert(source.name);
    return out.size();
  };
  const RuleTable next = qwen3_next::rules(c, {}), later = qwen3_5_moe::rules(c, {});
  expect_bijection(later);
  EXPECT_EQ(sources(next, "in_proj_qkvz"), 3u);
  EXPECT_EQ(sources(later, "in_proj_qkvz"), 0u);
  EXPECT_EQ(sources(later, "in_proj_z"), 3u);
  EXPECT_EQ(sources(next, "experts.gate_up_proj"), 0u);
  EXPECT_EQ(sources(later, "experts.gate_up_proj"), 4u);  // the decoder's; the head's are stored one by one
  EXPECT_EQ(sources(later, "mtp.layers.0.mlp.experts."), 9u);
  // Names overrule the usual storage, both ways.
  EXPECT_EQ(sources(qwen3_5_moe::rules(c, {{"model.layers.0.linear_attn.in_proj_qkvz.weight", {}}}), "in_proj_qkvz"), 1u);
  EXPECT_EQ(sources(qwen3_5_moe::rules(c, {{"model.layers.0.mlp.experts.0.gate_proj.weight", {}}}), "model.layers.0.mlp.experts."), 9u);
  EXPECT_THROW(qwen3_next::rules(c, {{"model.layers.0.linear_attn.in_proj_qkvz.weight", {}}, {"model.layers.0.linear_attn.in_proj_qkv.weight", {}}}),
               UserError);
  c.num_moe_experts = 0;
  c.moe_shared_expert_intermediate_size = 0;
  expect_bijection(qwen3_5::rules(c, {}));
}

}  // namespace
}  // namespace ponte
