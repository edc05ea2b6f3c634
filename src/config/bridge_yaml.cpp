// run_config.yaml of a checkpoint, in the layout Megatron Bridge instantiates (`_target_` class paths). Only keys that every release from 0.3.1
// on knows are printed, so any of them can load the file; what Bridge calls differently is put into its words.
#include <algorithm>

#include "base/format.h"
#include "config/field.h"

namespace ponte {
namespace {

struct BridgeSection {
  std::string_view name, target;
  std::string_view left_out;  // our keys that some release does not know, separated by spaces
};

constexpr BridgeSection kSections[] = {
    {"checkpoint", "megatron.bridge.training.config.CheckpointConfig", "save_best save_hf save_retain_interval"},
    {"ddp", "megatron.core.distributed.distributed_data_parallel_config.DistributedDataParallelConfig", ""},
    {"dist", "megatron.bridge.training.config.DistributedInitConfig", ""},
    {"logger", "megatron.bridge.training.config.LoggerConfig", "jsonl log_num_zeros_in_grad"},
    {"model", "megatron.bridge.models.gpt_provider.GPTModelProvider",
     "model_type hf_architecture layer_types max_position_embeddings original_max_position_embeddings rope_high_freq_factor rope_low_freq_factor "
     "rope_scaling_type yarn_attention_factor yarn_beta_fast yarn_beta_slow yarn_mscale yarn_mscale_all_dim yarn_truncate position_embedding_type "
     "activation_func moe_layer_freq moe_router_topk linear_conv_kernel_dim linear_key_head_dim linear_value_head_dim linear_num_key_heads "
     "linear_num_value_heads linear_attention_freq params_dtype window_size expert_tensor_parallel_size num_layers_per_virtual_pipeline_stage"},
    {"optimizer", "megatron.core.optimizer.optimizer_config.OptimizerConfig", "muon_nesterov"},
    {"rng", "megatron.bridge.training.config.RNGConfig", ""},
    {"scheduler", "megatron.bridge.training.config.SchedulerConfig", ""},
    {"tokenizer", "megatron.bridge.training.tokenizers.config.TokenizerConfig", "make_vocab_size_divisible_by use_tokenizer_vocab_size"},
    {"train", "megatron.bridge.training.config.TrainingConfig", "accumulate_grad_batches check_for_nan_in_loss check_optimizer_step_success num_epochs"},
};

// Present in every release and nothing to say about.
constexpr std::string_view kNullSections[] = {"comm_overlap",   "dataset", "ft",        "inprocess_restart", "mixed_precision",
                                              "nvrx_straggler", "peft",    "profiling", "straggler",         "tensor_inspect"};

bool left_out(const BridgeSection& section, std::string_view key) {
  const std::string words = " " + std::string(section.left_out) + " ";
  return words.find(" " + std::string(key) + " ") != std::string::npos;
}

// A Python object by its path: a dtype, a function.
std::string object(std::string_view key, std::string_view path) { return format("  {}:\n    _call_: false\n    _target_: {}\n", key, path); }

std::string line(std::string_view key, std::string_view value) { return format("  {}: {}\n", key, value); }

std::string activation_path(const std::string& name) {
  if (name == "gelu_tanh" || name == "quick_gelu") return "megatron.bridge.models.gpt_provider." + name;
  if (name == "squared_relu") return "megatron.core.activations.squared_relu";
  return "torch.nn.functional." + name;
}

std::string rotary_lines(const ModelConfig& m) {
  if (m.rope_scaling_type == "llama3") return line("position_embedding_type", m.position_embedding_type) + line("rope_scaling", "true");
  if (m.rope_scaling_type != "yarn") return line("position_embedding_type", m.position_embedding_type);
  std::string out = line("position_embedding_type", "yarn");
  out += line("yarn_rotary_scaling_factor", yaml_number(m.rope_scaling_factor));
  out += line("yarn_original_max_position_embeddings", std::to_string(m.original_max_position_embeddings));
  out += line("yarn_beta_fast", yaml_number(m.yarn_beta_fast)) + line("yarn_beta_slow", yaml_number(m.yarn_beta_slow));
  if (m.yarn_mscale) out += line("yarn_mscale", yaml_number(*m.yarn_mscale));
  if (m.yarn_mscale_all_dim) out += line("yarn_mscale_all_dim", yaml_number(*m.yarn_mscale_all_dim));
  return out + line("yarn_correction_range_round_to_int", m.yarn_truncate ? "true" : "false");
}

// The keys of `model` whose spelling differs, and those Megatron wants at its own default where a dense model has none.
std::string model_lines(const ModelConfig& m) {
  std::string out = object("activation_func", activation_path(m.activation_func)) + object("autocast_dtype", torch_name(m.params_dtype)) +
                    object("params_dtype", torch_name(m.params_dtype)) + rotary_lines(m);
  out += line("expert_tensor_parallel_size", std::to_string(m.expert_tensor_parallel_size ? m.expert_tensor_parallel_size : 1));
  out += line("moe_router_topk", std::to_string(m.moe_router_topk ? m.moe_router_topk : 2));
  if (m.moe_layer_freq.empty()) {
    out += line("moe_layer_freq", "1");
  } else {
    out += "  moe_layer_freq:\n";
    for (int64_t expert_layer : m.moe_layer_freq) out += format("  - {}\n", expert_layer);
  }
  if (m.window_size) out += format("  window_size:\n  - {}\n  - 0\n", *m.window_size - 1);
  if (m.experimental_attention_variant.empty()) return out;
  const std::pair<std::string_view, int64_t> linear[] = {{"linear_conv_kernel_dim", m.linear_conv_kernel_dim},
                                                         {"linear_key_head_dim", m.linear_key_head_dim},
                                                         {"linear_num_key_heads", m.linear_num_key_heads},
                                                         {"linear_num_value_heads", m.linear_num_value_heads},
                                                         {"linear_value_head_dim", m.linear_value_head_dim}};
  for (const auto& [key, value] : linear) out += line(key, std::to_string(value));
  out += "  linear_attention_freq:\n";
  for (const std::string& type : m.layer_types) out += type == "linear_attention" ? "  - 1\n" : "  - 0\n";
  // Layers that differ are stored one by one, and only this module specification builds them.
  out += line("hetereogenous_dist_checkpoint", "true");
  out += object("transformer_layer_spec",
                "megatron.core.models.gpt.experimental_attention_variant_module_specs.get_transformer_block_with_experimental_attention_variant_spec");
  return out;
}

// Evaluation had no section of its own in early releases.
std::string train_lines(const ValidationConfig& v) {
  return line("eval_interval", v.eval_interval ? std::to_string(v.eval_interval) : "null") + line("eval_iters", std::to_string(v.eval_iters)) +
         line("skip_train", v.skip_train ? "true" : "false");
}

bool is_dtype(std::string_view value) { return value.starts_with("torch."); }

}  // namespace

std::string bridge_run_config_yaml(const Config& config) {
  std::string out = "_target_: megatron.bridge.training.config.ConfigContainer\n";
  for (std::string_view section : kNullSections) out += format("{}: null\n", section);
  for (const BridgeSection& section : kSections) {
    out += format("{}:\n  _target_: {}\n", section.name, section.target);
    for (const Field& field : config_fields()) {
      if (field.section != section.name || field.role == FieldRole::internal || left_out(section, field.key)) continue;
      const std::string value = field.print(config);
      out += is_dtype(value) ? object(field.key, value) : line(field.key, value);
    }
    if (section.name == "model") out += model_lines(config.model);
    if (section.name == "train") out += train_lines(config.validation);
  }
  return out;
}

}  // namespace ponte
