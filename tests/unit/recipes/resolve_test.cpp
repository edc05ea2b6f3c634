// Layers: recipe < files < HF model < command line, and what the user is told.
#include "recipes/resolve.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>

#include "base/errors.h"

namespace ponte {
namespace {

class Resolve : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(testing::TempDir()) / "resolve_test";
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }
  std::string file(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name) << text;
    return (folder_ / name).string();
  }
  static std::string refusal(const RunRequest& request) {
    try {
      resolve_run(request);
    } catch (const UserError& error) {
      return error.what();
    }
    return "";
  }
  fs::path folder_;
};

TEST_F(Resolve, LaterLayersWin) {
  RunRequest request;
  request.recipe = "qwen3_600m_pretrain_config";
  request.config_files = {file("a.yaml", "train:\n  train_iters: 10\n  global_batch_size: 8\noptimizer:\n  lr: 0.1\n"),
                          file("b.yaml", "train:\n  global_batch_size: 16\n")};
  request.overrides = {"optimizer.lr=0.5"};
  const ResolvedRun run = resolve_run(request);
  EXPECT_EQ(run.config.train.micro_batch_size, 2);
  EXPECT_EQ(run.config.train.train_iters, 10);
  EXPECT_EQ(run.config.train.global_batch_size, 16);
  EXPECT_EQ(run.config.optimizer.lr, 0.5);
  EXPECT_EQ(run.origins.at("train.micro_batch_size"), "recipe qwen3_600m_pretrain_config");
  EXPECT_EQ(run.origins.at("train.train_iters"), "file " + (folder_ / "a.yaml").string() + " line 2");
  EXPECT_EQ(run.origins.at("train.global_batch_size"), "file " + (folder_ / "b.yaml").string() + " line 2");
  EXPECT_EQ(run.origins.at("optimizer.lr"), "command line");
  EXPECT_EQ(run.origins.at("model.params_dtype"), "derived");
  EXPECT_EQ(run.config.scheduler.lr_warmup_iters, 10);  // the recipe's 500, ended by the shorter run
  EXPECT_NE(effective_config(run).find("lr: 0.5"), std::string::npos);
}

TEST_F(Resolve, AnHfModelGivesArchitectureTokenizerAndWeights) {
  RunRequest request;
  request.recipe = "qwen3_8b_pretrain_config";
  request.hf_model = (fs::path(PONTE_GOLDEN_DIR) / "qwen3/hf").string();
  request.overrides = {"model.layernorm_epsilon=1e-5"};
  const ResolvedRun run = resolve_run(request);
  EXPECT_EQ(run.config.model.num_layers, 2);
  EXPECT_EQ(run.config.model.layernorm_epsilon, 1e-5);
  EXPECT_EQ(run.config.model.seq_length, 4096);  // the run's
  EXPECT_EQ(run.config.model.bf16, true);
  EXPECT_FALSE(run.config.model.hf_config_json.empty());
  EXPECT_EQ(run.config.checkpoint.pretrained_checkpoint, run.hf_model_folder);
  EXPECT_EQ(run.origins.at("model.num_layers"), "HF model " + request.hf_model);
}

// A number over layers is written out as a list that has the number's origin; an HF model given later has its own.
TEST_F(Resolve, NumbersOverLayersKeepTheirOrigin) {
  const std::string number = file("number.yaml", "model:\n  moe_layer_freq: 2\n");
  RunRequest request;
  request.recipe = "qwen3_30b_a3b_pretrain_config";
  request.config_files = {number};
  ResolvedRun run = resolve_run(request);
  ASSERT_EQ(run.config.model.moe_layer_freq.size(), 48u);
  EXPECT_EQ(std::ranges::count(run.config.model.moe_layer_freq, 1), 24);
  EXPECT_EQ(run.origins.at("model.moe_layer_freq"), "file " + number + " line 2");
  request.hf_model = (fs::path(PONTE_GOLDEN_DIR) / "qwen3_moe/hf").string();
  EXPECT_EQ(resolve_run(request).config.model.moe_layer_freq, std::vector<int64_t>());
  request.overrides = {"model.moe_layer_freq=2"};
  run = resolve_run(request);
  EXPECT_EQ(run.config.model.moe_layer_freq, (std::vector<int64_t>{1, 0}));
  EXPECT_EQ(run.origins.at("model.moe_layer_freq"), "command line");
}

TEST_F(Resolve, FinetuneRecipesFollowPeft) {
  for (const auto& [peft, lr, tensor] : std::initializer_list<std::tuple<const char*, double, int64_t>>{
           {"", 1e-4, 1}, {"peft=null", 5e-6, 4}, {"peft=lora", 1e-4, 1}, {"peft=dora", 1e-4, 1}}) {
    RunRequest request;
    request.recipe = "qwen3_8b_finetune_config";
    request.world_size = 4;
    if (*peft) request.overrides = {peft};
    const Config config = resolve_run(request).config;
    EXPECT_EQ(config.optimizer.lr, lr) << peft;
    EXPECT_EQ(config.model.tensor_model_parallel_size, tensor) << peft;
  }
}

TEST_F(Resolve, OneLengthIsEnough) {
  for (const char* key : {"model.seq_length=128", "dataset.seq_length=128"}) {
    RunRequest request;
    request.recipe = "qwen3_600m_sft_config";
    request.overrides = {key};
    const Config config = resolve_run(request).config;
    EXPECT_EQ(config.model.seq_length, 128) << key;
    EXPECT_EQ(config.dataset.seq_length, 128) << key;
  }
}

TEST_F(Resolve, ATokenizerTheUserNamesDecidesTheVocabulary) {
  const std::string demo = (fs::path(PONTE_GOLDEN_DIR) / "qwen3/hf").string();
  RunRequest request;
  request.recipe = "qwen3_600m_pretrain_config";
  EXPECT_EQ(resolve_run(request).config.model.vocab_size, 151936);
  request.overrides = {"tokenizer.tokenizer_model=" + demo};
  EXPECT_EQ(resolve_run(request).config.model.vocab_size, 512);
  request.overrides.push_back("model.vocab_size=600");
  EXPECT_EQ(resolve_run(request).config.model.vocab_size, 600);
}

TEST_F(Resolve, KeysThatChangeNothingAreNamedWhenGiven) {
  RunRequest request;
  request.recipe = "qwen3_600m_pretrain_config";  // sets ddp.overlap_grad_reduce itself: no remark
  EXPECT_TRUE(resolve_run(request).without_effect.empty());
  request.overrides = {"logger.tensorboard_queue_size=7", "logger.timing_log_level=0"};
  EXPECT_EQ(resolve_run(request).without_effect, std::vector<std::string>{"logger.tensorboard_queue_size=7 (command line)"});
  for (std::string_view key : idle_keys()) EXPECT_NO_THROW(config_value(Config(), key)) << key;
}

TEST_F(Resolve, ContradictionsAreErrors) {
  const std::pair<const char*, const char*> rows[] = {{"model.params_dtype=torch.float16", "mixed_precision=bf16_mixed"},
                                                      {"ddp.grad_reduce_in_fp32=false", "mixed_precision=bf16_mixed"},
                                                      {"scheduler.lr_warmup_iters=400000", "lr_warmup_iters"},
                                                      {"optimizer.bf16=false", "optimizer.bf16"},
                                                      {"optimizer.initial_loss_scale=8", "=bf16_mixed; give mixed_precision.initial_loss_scale"}};
  for (const auto& [change, wanted] : rows) {
    RunRequest request;
    request.recipe = "qwen3_600m_pretrain_config";
    request.overrides = {change};
    EXPECT_NE(refusal(request).find(wanted), std::string::npos) << change << " -> " << refusal(request);
    request.overrides.push_back("mixed_precision=null");
    const bool stands = std::string_view(change).starts_with("ddp");
    EXPECT_TRUE(!stands || refusal(request).empty()) << refusal(request);
  }
  RunRequest request;
  request.layout = "documentation";
  EXPECT_NE(refusal(request).find("wants a --recipe"), std::string::npos);
}

}  // namespace
}  // namespace ponte
