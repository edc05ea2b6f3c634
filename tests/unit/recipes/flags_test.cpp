// Command lines of Ponte, Megatron Bridge, Megatron-LM and ms-swift.
#include "recipes/flags.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/errors.h"
#include "config/field.h"
#include "config/foreign.h"

namespace ponte {
namespace {

std::vector<std::string> words(const std::string& line) {
  std::vector<std::string> out;
  for (const std::string& word : split(line, ' '))
    if (!word.empty()) out.push_back(word);
  return out;
}

// The keys a command line sets, in order.
std::string overrides(const std::string& line) { return join(parse_train_arguments(words(line)).request.overrides, " "); }

TEST(Flags, EverySpellingReachesItsKey) {
  const std::pair<const char*, const char*> rows[] = {
      {"--train-iters 5", "train.train_iters=5"},
      {"--train_iters=5", "train.train_iters=5"},
      {"train.train_iters=5", "train.train_iters=5"},
      {"--train.train_iters=5", "train.train_iters=5"},
      {"-tp 2 -pp 4 -ms 10 -gb 8 -mb 1",
       "model.tensor_model_parallel_size=2 model.pipeline_model_parallel_size=4 train.train_iters=10 train.global_batch_size=8 "
       "train.micro_batch_size=1"},
      {"-sl 64", "model.seq_length=64 dataset.seq_length=64"},
      {"--lr 1e-4 --min-lr 1e-5 --warmup_iters 3", "optimizer.lr=1e-4 optimizer.min_lr=1e-5 scheduler.lr_warmup_iters=3"},
      {"--sequence-parallel", "model.sequence_parallel=true"},
      {"--sequence_parallel true --finetune false", "model.sequence_parallel=true checkpoint.finetune=false"},
      {"--no_save_optim true --no-save-rng", "checkpoint.save_optim=false checkpoint.save_rng=false"},
      {"--no_load_optim false", "checkpoint.load_optim=true"},
      {"--train_type lora --lora_rank 8 --lora_alpha 32", "peft=lora peft.dim=8 peft.alpha=32"},
      {"--tuner_type full", "peft=null"},
      {"--target_modules all-linear", "peft.target_modules=[linear_qkv, linear_proj, linear_fc1, linear_fc2]"},
      {"--target-modules linear_qkv linear_fc1 --save /x", "peft.target_modules=['linear_qkv', 'linear_fc1'] checkpoint.save=/x"},
      {"--output_dir /x --save_steps 5 --eval_steps 7", "checkpoint.save=/x checkpoint.save_interval=5 validation.eval_interval=7"},
      {"--moe-layer-freq ([0]+[1]*23)", "model.moe_layer_freq=([0]+[1]*23)"},
      {"--moe_layer_freq=[0,1]", "model.moe_layer_freq=[0,1]"},
      {"--moe-layer-freq 2 --linear-attention-freq ([1]*3+[0])*6", "model.moe_layer_freq=2 model.linear_attention_freq=([1]*3+[0])*6"},
      {"--moe-layer-freq 0 1 1", "model.moe_layer_freq=[0, 1, 1]"},
      {"--data-path 0.3 /a 0.7 /b --split 1,1,1", "dataset.data_path=[0.3, '/a', 0.7, '/b'] dataset.split=1,1,1"},
      {"--bf16", "mixed_precision=bf16_mixed"},
      {"--fp16 false", ""},
      {"--mode dora", "peft=dora"},
      {"--mode sft --dataset squad", "peft=null dataset.kind=sft dataset.dataset_name=squad"},
      {"--dataset mock", "dataset.kind=gpt dataset.data_path=[]"},
      {"--use_megatron_fsdp", "ddp.use_megatron_fsdp=true dist.use_megatron_fsdp=true"},
      {"--recompute_granularity none", "model.recompute_granularity=null"},
      {"--load_safetensors true --save_safetensors true", "checkpoint.save_hf=true"},
      {"--dir /r", "checkpoint.save=/r/checkpoints checkpoint.load=/r/checkpoints logger.tensorboard_dir=/r/tb_logs"},
      {"--ckpt-step -1", "checkpoint.ckpt_step=-1"},
  };
  for (const auto& [line, wanted] : rows) EXPECT_EQ(overrides(line), wanted) << line;
}

TEST(Flags, ARunsOwnFlags) {
  const TrainArguments a = parse_train_arguments(
      words("--recipe r --config-file a.yaml b.yaml --config_files c.yaml --model org/name --revision v1 --layout documentation "
            "--dry-run --nproc-per-node 4 train.train_iters=1 --report_to wandb"));
  EXPECT_EQ(a.request.recipe, "r");
  EXPECT_EQ(a.request.config_files, (std::vector<std::string>{"a.yaml", "b.yaml", "c.yaml"}));
  EXPECT_EQ(a.request.hf_model, "org/name");
  EXPECT_EQ(a.request.revision, "v1");
  EXPECT_EQ(a.request.layout, "documentation");
  EXPECT_EQ(a.request.hf_files, HubFiles::tokenizer);
  EXPECT_EQ(a.request.world_size, 4);
  EXPECT_TRUE(a.dry_run);
  EXPECT_EQ(a.without_effect, std::vector<std::string>{"--report-to"});
  EXPECT_EQ(overrides("--config-file a.yaml tarin.train_iters=1"), "tarin.train_iters=1");
  EXPECT_EQ(parse_train_arguments(words("run.yaml --lr 1")).request.config_files, std::vector<std::string>{"run.yaml"});
}

TEST(Flags, MistakesAreNamed) {
  const std::pair<const char*, const char*> rows[] = {
      {"--train-itres 5", "did you mean --train-iters?"},
      {"--lr", "--lr wants a value"},
      {"--lr --min-lr 1", "--lr wants a value"},
      {"nonsense", "neither a flag nor section.key=value"},
      {"--nproc-per-node zero", "positive number"},
      {"--sequence-parallel=maybe", "must be true or false"},
      {"--mode rlhf", "--mode can be"},
      {"--name x", "no flag --name"},
  };
  for (const auto& [line, wanted] : rows) {
    try {
      parse_train_arguments(words(line));
      ADD_FAILURE() << line;
    } catch (const UserError& error) {
      EXPECT_NE(std::string(error.what()).find(wanted), std::string::npos) << line << " -> " << error.what();
    }
  }
}

// Every target of the table must exist and every flag appear once.
TEST(Flags, TheTableIsSound) {
  std::vector<std::string> seen;
  for (const FlagAlias& alias : flag_aliases()) {
    EXPECT_EQ(std::count(seen.begin(), seen.end(), alias.flag), 0) << alias.flag;
    seen.emplace_back(alias.flag);
    EXPECT_EQ(alias.flag.find('_'), std::string_view::npos) << alias.flag;
    for (const std::string& target : split(alias.sets, ' ')) {
      const std::string key = target.substr(0, target.find('='));
      if (key.empty() || key == "hf_model" || key == "peft" || key == "mixed_precision") continue;
      const size_t dot = key.find('.');
      YamlValue switched_off;
      switched_off.kind = YamlValue::Kind::scalar;
      switched_off.text = "false";
      const bool foreign = foreign_key(key.substr(0, dot), key.substr(dot + 1), switched_off).kind == Foreign::without_effect;
      const bool named = std::ranges::any_of(key_aliases(), [&](const auto& alias) { return alias.first == key; });
      EXPECT_TRUE(find_field(key) || foreign || named) << alias.flag << " -> " << key;
    }
  }
}

}  // namespace
}  // namespace ponte
