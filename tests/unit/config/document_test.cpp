// Values into a configuration: YAML in Bridge's spelling, overrides, origins, and what is refused.
#include "config/document.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/errors.h"
#include "base/file.h"
#include "base/json.h"

namespace ponte {
namespace {

std::string error_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const UserError& error) {
    return error.what();
  }
  return "";
}

ConfigDraft from_yaml(const std::string& text) {
  ConfigDraft draft;
  apply_yaml(draft, text, "my.yaml");
  return draft;
}

ConfigDraft from_overrides(const std::vector<std::string>& overrides) {
  ConfigDraft draft;
  for (const std::string& o : overrides) apply_override(draft, o, "command line");
  return draft;
}

TEST(Document, AMegatronDataSetAsksForMegatronsOrder) {
  EXPECT_EQ(ConfigDraft().config.dataset.order, "");
  EXPECT_EQ(from_yaml("dataset:\n  seq_length: 8\n").config.dataset.order, "");
  const std::string target = "dataset:\n  _target_: megatron.bridge.training.config.GPTDatasetConfig\n";
  EXPECT_EQ(from_yaml(target).config.dataset.order, "megatron");
  EXPECT_EQ(from_yaml(target + "  order: permutation\n").config.dataset.order, "permutation");
  EXPECT_EQ(from_yaml("dataset:\n  _target_: megatron.bridge.training.config.FinetuningDatasetConfig\n").config.dataset.order, "");
}

TEST(Document, ReadsTheSpellingsOfBridge) {
  const ConfigDraft draft = from_yaml(
      "model:\n  params_dtype: torch.bfloat16\n  num_layers: 4\n  virtual_pipeline_model_parallel_size: null\n  recompute_modules: [core_attn, mlp]\n"
      "  activation_func:\n    _call_: false\n    _target_: torch.nn.functional.silu\n"
      "optimizer:\n  lr: 3.0e-04\n  exp_avg_dtype:\n    _call_: false\n    _target_: torch.float32\n"
      "train:\n  train_iters: 500_000\n  exit_signal_handler: False\n"
      "mixed_precision: bf16-mixed\n"
      "peft:\n  _target_: megatron.bridge.peft.lora.LoRA\n  dim: 8\n"
      "dataset:\n  _target_: megatron.bridge.training.config.GPTDatasetConfig\n  blend: [[a, b], [0.3, 0.7]]\n");
  const Config& c = draft.config;
  EXPECT_EQ(c.model.params_dtype, DType::bf16);
  EXPECT_EQ(c.model.num_layers, 4);
  EXPECT_EQ(c.model.recompute_modules, (std::vector<std::string>{"core_attn", "mlp"}));
  EXPECT_EQ(c.optimizer.lr, 3e-4);
  EXPECT_EQ(c.train.train_iters, 500000);
  EXPECT_FALSE(c.train.exit_signal_handler);
  EXPECT_EQ(c.mixed_precision.name, "bf16_mixed");
  EXPECT_TRUE(c.mixed_precision.bf16);
  EXPECT_EQ(c.peft.scheme, "lora");
  EXPECT_EQ(c.peft.dim, 8);
  EXPECT_EQ(c.dataset.data_path, (std::vector<std::string>{"0.3", "a", "0.7", "b"}));
  EXPECT_EQ(draft.origins.at("optimizer.lr"), "file my.yaml line 10");
}

TEST(Document, OverridesAreText) { EXPECT_THROW(from_overrides({"tokenizer.chat_template=\xff"}), UserError); }

// Each mistake, and what the message must hold.
TEST(Document, MistakesAreNamed) {
  const std::pair<const char*, std::vector<std::string>> cases[] = {
      {"train:\n  train_itres: 5\n", {"my.yaml line 2", "train.train_itres", "train.train_iters"}},
      {"train:\n  tensor_model_parallel_size: 5\n", {"model.tensor_model_parallel_size"}},
      {"trian:\n  train_iters: 5\n", {"section trian", "train"}},
      {"train:\n  train_iters: five\n", {"my.yaml line 2", "train.train_iters", "an integer or null", "five"}},
      {"train:\n  train_iters: 1.5\n", {"an integer"}},
      {"train:\n  exit_signal_handler: 1\n", {"true or false"}},
      {"optimizer:\n  lr: [1]\n", {"a number", "[1]"}},
      {"optimizer:\n  optimizer: adma\n", {"one of adam, sgd", "did you mean adam?"}},
      {"model:\n  params_dtype: bfloat17\n", {"a dtype", "bfloat17"}},
      {"model:\n  softmax_type: learnable\n", {"model.softmax_type", "vanilla"}},
      {"model:\n  hf_config_json: x\n", {"no key model.hf_config_json"}},
      {"model:\n  moe_layer_freq: 0\n", {"my.yaml line 2", "model.moe_layer_freq must be a number of layers or a list of 0 and 1", "not 0"}},
      {"model:\n  moe_layer_freq: [0, 2]\n", {"a list of 0 and 1", "not [0, 2]"}},
      {"model:\n  moe_layer_freq: ([0]+[2]*3)\n", {"a list of 0 and 1", "not [0, 2, 2, 2]"}},
      {"model:\n  moe_layer_freq: ([0]+[1]\n", {"my.yaml line 2: model.moe_layer_freq: '([0]+[1]'", "wanted ')' at character 9"}},
      {"model:\n  linear_attention_freq: -4\n", {"model.linear_attention_freq must be a number of layers", "not -4"}},
      {"mixed_precision: bf16_mixd\n", {"bf16_mixed"}},
      {"peft:\n  _target_: megatron.bridge.peft.canonical.Foo\n", {"LoRA"}},
      {"dataset:\n  blend: [[a, b], [1]]\n", {"dataset.blend"}},
      {"model:\n  optimizer:\n    lr: 1\n", {"my.yaml line 3", "no section inside model", "optimizer is a section of its own"}},
      {"model:\n  optimzer:\n    lr: 1\n", {"optimizer is a section of its own", "(found: optimzer)"}},
      {"model:\n  zzz:\n    lr: 1\n", {"no key model.zzz"}},
      {"train: 5\n", {"train must be a section"}},
      {"- a\n", {"my.yaml"}},
  };
  for (const auto& [text, wanted] : cases) {
    const std::string message = error_of([&] { from_yaml(text); });
    for (const std::string& part : wanted) EXPECT_NE(message.find(part), std::string::npos) << text << " -> " << message;
  }
}

TEST(Document, OverridesAreTypedAndLastOneWins) {
  const Config c = from_overrides({"train.train_iters=5", "train.train_iters=7", "model.params_dtype=torch.float16", "dataset.data_path=[x, 'y z']",
                                   "checkpoint.save=/a: b/#c", "+logger.log_interval=3", "dataset.split='1,2'", "model.moe_z_loss_coeff=null",
                                   "dataset.data_path=/plain/path"})
                       .config;
  EXPECT_EQ(c.train.train_iters, 7);
  EXPECT_EQ(c.model.params_dtype, DType::f16);
  EXPECT_EQ(c.dataset.data_path, std::vector<std::string>{"/plain/path"});
  EXPECT_EQ(c.checkpoint.save, "/a: b/#c");
  EXPECT_EQ(c.dataset.split, "1,2");
  for (const char* wrong :
       {"train.train_iters", "=5", "train_iters=5", "train.train_iters=x", "train.train_iters=[", "nosuch.key=1", "train.=1", ".x=1"})
    EXPECT_THROW(from_overrides({wrong}), UserError) << wrong;
}

// The override list of Megatron Bridge's Qwen3-VL guide, word for word except the placeholders.
TEST(Document, AcceptsTheOverridesOfTheVisionGuide) {
  const ConfigDraft draft = from_overrides({"mixed_precision=null",
                                            "model.bf16=true",
                                            "model.params_dtype=torch.bfloat16",
                                            "model.pipeline_dtype=torch.bfloat16",
                                            "model.tensor_model_parallel_size=1",
                                            "model.expert_model_parallel_size=8",
                                            "model.freeze_language_model=false",
                                            "model.freeze_vision_model=false",
                                            "model.freeze_vision_projection=false",
                                            "model.init_model_with_meta_device=true",
                                            "model.seq_length=4096",
                                            "model.gradient_accumulation_fusion=false",
                                            "model.calculate_per_token_loss=true",
                                            "model.moe_token_dispatcher_type=alltoall",
                                            "model.recompute_granularity=full",
                                            "model.recompute_method=uniform",
                                            "model.recompute_num_layers=1",
                                            "train.train_iters=20",
                                            "train.global_batch_size=32",
                                            "train.micro_batch_size=1",
                                            "train.eval_iters=5",
                                            "checkpoint.save=/path",
                                            "checkpoint.ckpt_format=fsdp_dtensor",
                                            "dist.use_megatron_fsdp=true",
                                            "dist.use_torch_fsdp2=false",
                                            "logger.log_interval=1",
                                            "logger.log_throughput=true",
                                            "logger.log_throughput_to_tensorboard=true",
                                            "logger.wandb_project=p",
                                            "logger.wandb_exp_name=e",
                                            "ddp.grad_reduce_in_fp32=false",
                                            "ddp.use_megatron_fsdp=true",
                                            "ddp.use_distributed_optimizer=true",
                                            "ddp.data_parallel_sharding_strategy=optim_grads_params"});
  EXPECT_EQ(draft.config.validation.eval_iters, 5);
  EXPECT_TRUE(draft.config.ddp.use_megatron_fsdp);
  EXPECT_EQ(draft.config.mixed_precision.name, "");
  // Only what was given and has no effect is listed; values that switch nothing on are not.
  EXPECT_EQ(draft.without_effect.size(), 4u);
  EXPECT_EQ(draft.without_effect[2], "logger.wandb_project=p (command line; runs are followed through logger.jsonl and logger.tensorboard_dir)");
}

TEST(Document, PrintedConfigurationReadsBack) {
  ConfigDraft draft = from_overrides({"mixed_precision=bf16_mixed", "mixed_precision.grad_reduce_in_fp32=false", "peft=dora", "peft.alpha=64",
                                      "model.num_layers=3", "model.layer_types=[full_attention, full_attention, sliding_attention]",
                                      "model.window_size=128", "dataset.data_path=[0.5, /x y, 0.5, b]", "optimizer.lr=1e-4",
                                      "tokenizer.chat_template='{% for m in messages %}\n{{ m }}'", "scheduler.lr_warmup_fraction=0.1"});
  ConfigDraft back;
  apply_yaml(back, config_yaml(draft.config, &draft.origins), "printed.yaml");
  for (const ConfigDifference& d : config_difference(draft.config, back.config)) ADD_FAILURE() << d.key << ": " << d.left << " -> " << d.right;
  EXPECT_NE(config_yaml(draft.config, &draft.origins).find("# command line"), std::string::npos);
}

// Whole configurations as Megatron Bridge writes them beside its checkpoints, of both dialects and of training runs.
TEST(Document, ReadsRunConfigsOfBridge) {
  int files = 0;
  for (const auto& entry : fs::recursive_directory_iterator(PONTE_GOLDEN_DIR)) {
    if (entry.path().filename() != "run_config.yaml") continue;
    ConfigDraft draft;
    ASSERT_EQ(error_of([&] { apply_yaml_file(draft, entry.path()); }), "") << entry.path();
    const Json model = read_json(entry.path().parent_path().parent_path().parent_path() / "hf/config.json");
    const bool hybrid = model.at("model_type") == "qwen3_next";
    EXPECT_EQ(draft.config.model.num_layers, model.at("num_hidden_layers").get<int64_t>()) << entry.path();
    EXPECT_EQ(draft.config.model.experimental_attention_variant, hybrid ? "gated_delta_net" : "") << entry.path();
    const auto types = hybrid ? model.at("layer_types").get<std::vector<std::string>>() : std::vector<std::string>();
    EXPECT_EQ(draft.config.model.layer_types, types) << entry.path();
    EXPECT_EQ(draft.config.model.activation_func, "silu");
    EXPECT_EQ(draft.without_effect.size(), 1u);
    ++files;
  }
  EXPECT_GE(files, 20);
}

}  // namespace
}  // namespace ponte
