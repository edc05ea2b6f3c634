// Numbers over layers, and what stands when layers are spoken of twice.
#include "config/layer_patterns.h"

#include <gtest/gtest.h>

#include "base/errors.h"
#include "config/document.h"

namespace ponte {
namespace {

ModelConfig written_out(const std::vector<std::string>& overrides, int64_t layers) {
  ConfigDraft draft;
  for (const std::string& o : overrides) apply_override(draft, o, "test");
  for (const char* hybrid : {"model.num_moe_experts=4", "model.experimental_attention_variant=gated_delta_net"}) apply_override(draft, hybrid, "test");
  draft.config.model.num_layers = layers;
  write_out_layer_patterns(draft);
  return draft.config.model;
}

// megatron-core's get_moe_layer_pattern and get_linear_attention_pattern, evaluated.
TEST(LayerPatterns, NumbersAreMegatronsLists) {
  struct Row {
    const char* every;
    std::vector<int64_t> experts, linear;
  };
  const Row rows[] = {{"1", {}, {0, 0, 0, 0, 0, 0, 0}},  // every layer has experts
                      {"2", {1, 0, 1, 0, 1, 0, 1}, {1, 0, 1, 0, 1, 0, 1}},
                      {"3", {1, 0, 0, 1, 0, 0, 1}, {1, 1, 0, 1, 1, 0, 1}},
                      {"4", {1, 0, 0, 0, 1, 0, 0}, {1, 1, 1, 0, 1, 1, 1}},
                      {"7", {1, 0, 0, 0, 0, 0, 0}, {1, 1, 1, 1, 1, 1, 0}},
                      {"9", {1, 0, 0, 0, 0, 0, 0}, {1, 1, 1, 1, 1, 1, 1}}};
  for (const Row& row : rows) {
    const ModelConfig m = written_out({std::string("model.moe_layer_freq=") + row.every, std::string("model.linear_attention_freq=") + row.every}, 7);
    EXPECT_EQ(m.moe_layer_freq, row.experts) << row.every;
    std::vector<int64_t> linear;
    for (const std::string& type : m.layer_types) linear.push_back(type == "linear_attention");
    EXPECT_EQ(linear, row.linear) << row.every;
  }
}

// What Python makes of them, which evaluates them in megatron/training/arguments.py.
TEST(LayerPatterns, ExpressionsOfMegatronsCommandLine) {
  const std::pair<const char*, std::vector<int64_t>> rows[] = {{"([0]+[1]*6)", {0, 1, 1, 1, 1, 1, 1}},
                                                               {"[0]+[1]*6", {0, 1, 1, 1, 1, 1, 1}},
                                                               {"([1]*2+[0]*1)*2+[1]", {1, 1, 0, 1, 1, 0, 1}},
                                                               {"[1,0]*3+[1,]", {1, 0, 1, 0, 1, 0, 1}},
                                                               {"3*[0, 1] + (2*[])+[1*1]", {0, 1, 0, 1, 0, 1, 1}},
                                                               {"[0]*(1+2)*2+[0+1]", {0, 0, 0, 0, 0, 0, 1}},
                                                               {"[0,0,0,1,1,1,1]", {0, 0, 0, 1, 1, 1, 1}}};
  for (const auto& [text, flags] : rows) {
    EXPECT_EQ(layer_expression(text, "test"), flags) << text;
    const ModelConfig m = written_out({std::string("model.moe_layer_freq=") + text, std::string("model.linear_attention_freq=") + text}, 7);
    EXPECT_EQ(m.moe_layer_freq, flags) << text;
    std::vector<int64_t> linear;
    for (const std::string& type : m.layer_types) linear.push_back(type == "linear_attention");
    EXPECT_EQ(linear, flags) << text;
  }
  EXPECT_EQ(written_out({"model.moe_layer_freq=\"([0]+[1]*2)\""}, 3).moe_layer_freq, (std::vector<int64_t>{0, 1, 1}));
  ConfigDraft draft;
  apply_yaml(draft, "model:\n  moe_layer_freq: ([0]+[1]*2)\n  linear_attention_freq: \"[1]*3\"\n", "file.yaml");
  EXPECT_EQ(draft.config.model.moe_layer_freq, (std::vector<int64_t>{0, 1, 1}));
  EXPECT_EQ(draft.config.model.layer_types, std::vector<std::string>(3, "linear_attention"));
}

TEST(LayerPatterns, WhatIsNoExpression) {
  const std::pair<std::string, const char*> rows[] = {{"[0]+", "wanted a list, '(' or a number at character 5"},
                                                      {"([0]", "wanted ')' at character 5"},
                                                      {"[0]]", "wanted an operator or the end at character 4"},
                                                      {"[0]+1", "wanted two lists or two numbers around '+'"},
                                                      {"[0]*[1]", "wanted a number on one side of '*'"},
                                                      {"[[0]]", "wanted a number in a list"},
                                                      {"[0 1]", "wanted ',' or ']'"},
                                                      {"[,]", "wanted a list, '(' or a number"},
                                                      {"[-1]", "wanted a list, '(' or a number"},
                                                      {"[x]", "wanted a list, '(' or a number"},
                                                      {"__import__('os')[0]", "wanted a list, '(' or a number at character 1"},
                                                      {"[0]\t", "wanted an operator or the end"},
                                                      {"[0]*65536*2", "no more than 65536 layers"},
                                                      {"[0]*99999999999999999999", "wanted a list, '(' or a number"},
                                                      {"[65537]", "no more than 65536 layers"},
                                                      {std::string(100, '(') + "[0]" + std::string(100, ')'), "no more than 64 levels"},
                                                      {std::string(100, '['), "no more than 64 levels"},
                                                      {"[0]" + std::string(5000, '*'), "no more than 4096 characters"}};
  for (const auto& [text, wanted] : rows) {
    try {
      layer_expression(text, "the key");
      ADD_FAILURE() << text;
    } catch (const UserError& e) {
      EXPECT_TRUE(std::string_view(e.what()).starts_with("the key: '")) << e.what();
      EXPECT_TRUE(std::string_view(e.what()).find(wanted) != std::string_view::npos) << e.what();
    }
  }
  EXPECT_THROW(layer_expression("(1+1)", "the key"), UserError);
}

TEST(LayerPatterns, TheLastWordStands) {
  using Flags = std::vector<int64_t>;
  EXPECT_EQ(written_out({"model.moe_layer_freq=2", "model.moe_layer_freq=[0,1,1]"}, 3).moe_layer_freq, (Flags{0, 1, 1}));
  EXPECT_EQ(written_out({"model.moe_layer_freq=[0,1,1]", "model.moe_layer_freq=2"}, 3).moe_layer_freq, (Flags{1, 0, 1}));
  EXPECT_EQ(written_out({"model.moe_layer_freq=2", "model.moe_layer_freq=1"}, 3).moe_layer_freq, Flags());
  EXPECT_EQ(written_out({"model.moe_layer_freq=2", "model.moe_layer_freq=null"}, 3).moe_layer_freq, Flags());
  const std::vector<std::string> mixed{"full_attention", "linear_attention", "linear_attention"}, all_full(3, "full_attention");
  EXPECT_EQ(written_out({"model.linear_attention_freq=1", "model.layer_types=[full,linear,linear]"}, 3).layer_types, mixed);
  EXPECT_EQ(written_out({"model.layer_types=[full,linear,linear]", "model.linear_attention_freq=1"}, 3).layer_types, all_full);
  EXPECT_EQ(written_out({"model.linear_attention_freq=[0,1,1]"}, 3).layer_types, mixed);
  // A file that holds both, as a printed configuration does: the list.
  ConfigDraft draft;
  apply_yaml(draft, "model:\n  layer_types: [full, linear, linear]\n  linear_attention_freq: 1\n", "both.yaml");
  EXPECT_EQ(draft.config.model.layer_types, mixed);
}

}  // namespace
}  // namespace ponte
