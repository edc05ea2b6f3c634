// Groups and coordinates of the mesh against megatron-core's RankGenerator (tests/golden/mesh).
#include "layout/mesh.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/errors.h"
#include "base/json.h"

namespace ponte {
namespace {

TEST(Mesh, GroupsAreMegatrons) {
  const Json cases = read_json(std::string(PONTE_SOURCE_DIR) + "/tests/golden/mesh/groups.json");
  ASSERT_GE(cases.size(), 10u);
  for (const Json& one : cases) {
    const auto s = one["sizes"].get<std::vector<int64_t>>();
    const Mesh mesh({.tensor = s[0], .context = s[1], .data = s[4], .pipeline = s[5], .expert = s[2], .expert_tensor = s[3],
                     .context_inner = s[6], .order = one["order"].get<std::string>()});
    for (int64_t k = 0; k < kGroupKinds; ++k) {
      const auto kind = static_cast<GroupKind>(k);
      if (!one["groups"].contains(name_of(kind))) continue;  // of optimizer instances: the next test's
      EXPECT_EQ(mesh.groups(kind), one["groups"][name_of(kind)].get<std::vector<std::vector<int64_t>>>()) << one["sizes"] << " " << name_of(kind);
    }
  }
}

// As megatron/core/parallel_state.py cuts intra- and inter-partial groups.
TEST(Mesh, OptimizerInstancesCutReplicas) {
  using Groups = std::vector<std::vector<int64_t>>;
  const Mesh mesh({.tensor = 2, .context = 2, .data = 2, .expert = 2, .optimizer_instances = 2});
  EXPECT_EQ(mesh.groups(GroupKind::data_context), (Groups{{0, 2, 4, 6}, {1, 3, 5, 7}}));
  EXPECT_EQ(mesh.groups(GroupKind::data_context_shares), (Groups{{0, 2}, {4, 6}, {1, 3}, {5, 7}}));
  EXPECT_EQ(mesh.groups(GroupKind::data_context_copies), (Groups{{0, 4}, {2, 6}, {1, 5}, {3, 7}}));
  EXPECT_EQ(mesh.groups(GroupKind::expert_data), (Groups{{0, 2, 4, 6}, {1, 3, 5, 7}}));
  EXPECT_EQ(mesh.groups(GroupKind::expert_data_shares), (Groups{{0, 2}, {4, 6}, {1, 3}, {5, 7}}));
  const Mesh one({.context = 2, .data = 2});
  EXPECT_EQ(one.groups(GroupKind::data_context_shares), one.groups(GroupKind::data_context));
  EXPECT_EQ(one.groups(GroupKind::data_context_copies), (Groups{{0}, {1}, {2}, {3}}));
}

TEST(Mesh, CoordinatesArePlacesInGroups) {
  const Mesh mesh({.tensor = 2, .context = 3, .data = 2, .pipeline = 4, .expert = 3, .expert_tensor = 2});
  ASSERT_EQ(mesh.size(), 48);
  for (int64_t rank = 0; rank < mesh.size(); ++rank) {
    const Coordinates c = mesh.coordinates(rank);
    for (const auto& [kind, place] : std::vector<std::pair<GroupKind, int64_t>>{{GroupKind::tensor, c.tensor}, {GroupKind::context, c.context},
                                                                                {GroupKind::data, c.data}, {GroupKind::pipeline, c.pipeline},
                                                                                {GroupKind::expert, c.expert}, {GroupKind::expert_tensor, c.expert_tensor},
                                                                                {GroupKind::expert_data, c.expert_data}})
      EXPECT_EQ(mesh.group(kind, rank)[place], rank) << name_of(kind);
  }
  EXPECT_EQ(mesh.group(GroupKind::embedding, 0), (std::vector<int64_t>{0, 36}));
  EXPECT_EQ(mesh.group(GroupKind::embedding, 13), std::vector<int64_t>{13});
}

TEST(Mesh, WhatDoesNotFitIsRefused) {
  for (const MeshSizes& sizes :
       std::vector<MeshSizes>{{.tensor = 0},
                              {.data = 2, .expert = 3},
                              {.data = 3, .optimizer_instances = 2},
                              {.data = 4, .expert = 2, .optimizer_instances = 4},
                              {.context = 4, .context_inner = 3},
                              {.context_inner = 0},
                              {.tensor = 2, .order = "cp-ep-dp-pp"},
                              {.order = "tp-tp"},
                              {.order = "tp-xp"},
                              {.tensor = 2, .data = 2, .pipeline = 2, .expert = 2, .expert_tensor = 2, .order = "tp-cp-ep-pp-dp"}})
    EXPECT_THROW(Mesh{sizes}, UserError) << sizes.order;
  ModelConfig config;
  config.tensor_model_parallel_size = 2;
  EXPECT_THROW(mesh_sizes(config, 3), UserError);
  EXPECT_EQ(mesh_sizes(config, 6).data, 3);
  EXPECT_EQ(mesh_sizes(config, 6).expert_tensor, 1);
  config.context_parallel_size = 4;
  config.cp_comm_type = "a2a+p2p";
  EXPECT_THROW(mesh_sizes(config, 8), UserError);
  config.hierarchical_context_parallel_sizes = {2, 4};
  EXPECT_THROW(mesh_sizes(config, 8), UserError);
  config.hierarchical_context_parallel_sizes = {1, 4};
  EXPECT_EQ(mesh_sizes(config, 8).context_inner, 1);
  config.hierarchical_context_parallel_sizes = {2, 2};
  EXPECT_EQ(mesh_sizes(config, 8).context_inner, 2);
  config.context_parallel_size = 1;  // nothing to divide
  EXPECT_EQ(mesh_sizes(config, 6).context_inner, 1);
  config.num_moe_experts = 4;
  EXPECT_EQ(mesh_sizes(config, 6).expert_tensor, 2);
}

}  // namespace
}  // namespace ponte
