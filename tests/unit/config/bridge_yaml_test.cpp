// run_config.yaml: its keys must be known to the Bridge releases whose files are goldens, and read back.
#include <gtest/gtest.h>

#include <set>

#include "base/file.h"
#include "config/config.h"
#include "config/document.h"
#include "config/value.h"

namespace ponte {
namespace {

YamlValue golden(const char* path) {
  const fs::path file = fs::path(PONTE_GOLDEN_DIR) / path;
  return parse_value(read_file(file), file.string());
}

Config trained() {
  ConfigDraft draft;
  for (const char* o :
       {"model.num_layers=2", "model.hidden_size=64", "model.num_attention_heads=4", "model.num_query_groups=2", "model.kv_channels=32",
        "model.vocab_size=512", "model.ffn_hidden_size=128", "model.qk_layernorm=true", "mixed_precision=bf16_mixed", "train.train_iters=10",
        "train.global_batch_size=4", "optimizer.lr=1e-3", "model.rotary_base=1000000.0"})
    apply_override(draft, o, "test");
  finalize(draft.config);
  return draft.config;
}

// 0.3.1 wrote mcore016/ and the trained one, 0.7 the others; a key is safe when both know it.
TEST(BridgeYaml, UsesOnlyKeysOfOldAndNewReleases) {
  const YamlValue ours = parse_value(bridge_run_config_yaml(trained()), "run_config.yaml");
  const YamlValue old_import = golden("mcore016/qwen3/mcore/iter_0000000/run_config.yaml");
  const YamlValue old_run = golden("trained/qwen3_opt_fully_reshardable/mcore/iter_0000003/run_config.yaml");
  const YamlValue recent = golden("qwen3/mcore/iter_0000000/run_config.yaml");
  for (const char* section : {"model", "optimizer", "checkpoint", "logger", "tokenizer", "rng", "scheduler", "ddp"}) {
    const YamlValue& mine = *ours.find(section);
    for (const auto& [key, value] : mine.entries) {
      const YamlValue* in_old = old_run.find(section)->find(key) ? old_run.find(section) : old_import.find(section);
      EXPECT_TRUE(in_old && in_old->find(key)) << section << "." << key << " is unknown to 0.3.1";
      const bool present = recent.find(section)->kind == YamlValue::Kind::map;
      EXPECT_TRUE(!present || recent.find(section)->find(key)) << section << "." << key << " is unknown to 0.7";
    }
  }
  for (const auto& [section, value] : ours.entries) EXPECT_TRUE(old_run.find(section)) << "section " << section;
}

TEST(BridgeYaml, SaysWhatTheModelIs) {
  const YamlValue ours = parse_value(bridge_run_config_yaml(trained()), "run_config.yaml");
  const YamlValue theirs = golden("mcore016/qwen3/mcore/iter_0000000/run_config.yaml");
  const std::set<std::string> run_keys = {
      "attention_softmax_in_fp32", "calculate_per_token_loss", "moe_grouped_gemm",  "moe_token_dispatcher_type", "seq_length", "cp_comm_type",
      "moe_router_dtype",          "recompute_num_layers",     "recompute_modules", "moe_z_loss_coeff"};
  for (const auto& [key, value] : ours.find("model")->entries) {
    if (run_keys.contains(key)) continue;
    const YamlValue* other = theirs.find("model")->find(key);
    ASSERT_TRUE(other) << key;
    EXPECT_EQ(describe(value), describe(*other)) << key;
  }
}

TEST(BridgeYaml, ReadsBack) {
  for (const char* change : {"model.recompute_num_layers=2", "model.window_size=128", "model.moe_layer_freq=[0, 1]", "scheduler.lr_decay_style=WSD",
                             "model.rope_scaling_type=llama3"}) {
    ConfigDraft draft{trained(), {}, {}};
    apply_override(draft, change, "test");
    ConfigDraft back;
    apply_yaml(back, bridge_run_config_yaml(draft.config), "run_config.yaml");
    const std::string key = std::string(change).substr(0, std::string(change).find('='));
    EXPECT_EQ(config_value(back.config, key), config_value(draft.config, key)) << change;
    EXPECT_EQ(back.config.optimizer.lr, 1e-3);
    EXPECT_EQ(back.config.model.params_dtype, DType::bf16);
  }
}

}  // namespace
}  // namespace ponte
