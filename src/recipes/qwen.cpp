// The Qwen recipes: a table of published sizes and layouts, and per family and mode what differs from the base. Values: Megatron Bridge 0.7,
// recipes/qwen/h100/qwen2.py, qwen3.py, qwen3_moe.py and qwen3_next.py; sizes: the models' config.json. Long because the tables of all
// generations are read side by side.
#include <algorithm>

#include "base/errors.h"
#include "families/registry.h"
#include "recipes/recipes.h"

namespace ponte {
namespace {

constexpr std::string_view kFinewebTokenizer = "Qwen/Qwen2-1.5B";
bool is_guide(const RecipeModel& model) { return model.name.ends_with("_fineweb"); }

constexpr RecipeModel kModels[] = {
    // name, hub id, family, layers, hidden, ffn, heads, groups, head dim, vocabulary, positions, tied, epsilon,
    // tensor, pipeline, peft tensor, page's tensor, page's peft tensor, [experts, per token, expert ffn, page's pipeline, page's expert]
    {"qwen2_500m", "Qwen/Qwen2-0.5B", "qwen2", 24, 896, 4864, 14, 2, 64, 151936, 131072, true, 1e-6, 1, 1, 1, 1, 1},
    {"qwen2_1p5b", "Qwen/Qwen2-1.5B", "qwen2", 28, 1536, 8960, 12, 2, 128, 151936, 131072, true, 1e-6, 1, 1, 1, 1, 1},
    {"qwen2_7b", "Qwen/Qwen2-7B", "qwen2", 28, 3584, 18944, 28, 4, 128, 152064, 131072, false, 1e-6, 2, 1, 1, 2, 1},
    {"qwen2_72b", "Qwen/Qwen2-72B", "qwen2", 80, 8192, 29568, 64, 8, 128, 152064, 131072, false, 1e-5, 8, 4, 8, 8, 4},
    {"qwen25_500m", "Qwen/Qwen2.5-0.5B", "qwen2", 24, 896, 4864, 14, 2, 64, 151936, 32768, true, 1e-6, 1, 1, 1, 1, 1},
    {"qwen25_1p5b", "Qwen/Qwen2.5-1.5B", "qwen2", 28, 1536, 8960, 12, 2, 128, 151936, 131072, true, 1e-6, 1, 1, 1, 1, 1},
    {"qwen25_7b", "Qwen/Qwen2.5-7B", "qwen2", 28, 3584, 18944, 28, 4, 128, 152064, 131072, false, 1e-6, 2, 1, 1, 2, 1},
    {"qwen25_14b", "Qwen/Qwen2.5-14B", "qwen2", 48, 5120, 13824, 40, 8, 128, 152064, 131072, false, 1e-5, 4, 1, 1, 2, 1},
    {"qwen25_32b", "Qwen/Qwen2.5-32B", "qwen2", 64, 5120, 27648, 40, 8, 128, 152064, 131072, false, 1e-5, 8, 2, 8, 4, 2},
    {"qwen25_72b", "Qwen/Qwen2.5-72B", "qwen2", 80, 8192, 29568, 64, 8, 128, 152064, 131072, false, 1e-5, 8, 4, 8, 8, 4},
    {"qwen3_600m", "Qwen/Qwen3-0.6B", "qwen3", 28, 1024, 3072, 16, 8, 128, 151936, 40960, true, 1e-6, 1, 1, 1, 1, 1},
    {"qwen3_1p7b", "Qwen/Qwen3-1.7B", "qwen3", 28, 2048, 6144, 16, 8, 128, 151936, 40960, true, 1e-6, 1, 1, 1, 1, 1},
    {"qwen3_4b", "Qwen/Qwen3-4B", "qwen3", 36, 2560, 9728, 32, 8, 128, 151936, 40960, true, 1e-6, 2, 1, 1, 1, 1},
    {"qwen3_8b", "Qwen/Qwen3-8B", "qwen3", 36, 4096, 12288, 32, 8, 128, 151936, 40960, false, 1e-6, 4, 1, 1, 2, 1},
    {"qwen3_14b", "Qwen/Qwen3-14B", "qwen3", 40, 5120, 17408, 40, 8, 128, 151936, 40960, false, 1e-6, 8, 1, 1, 2, 1},
    {"qwen3_32b", "Qwen/Qwen3-32B", "qwen3", 64, 5120, 25600, 64, 8, 128, 151936, 40960, false, 1e-6, 8, 2, 1, 4, 2},
    {"qwen3_30b_a3b", "Qwen/Qwen3-30B-A3B", "qwen3_moe", 48, 2048, 6144, 32, 4, 128, 151936, 40960, false, 1e-6, 4, 2, 4, 1, 1, 128, 8, 768, 1, 8},
    {"qwen3_235b_a22b", "Qwen/Qwen3-235B-A22B", "qwen3_moe", 94, 4096, 12288, 64, 4, 128, 151936, 40960, false, 1e-6,
     4, 16, 4, 2, 2, 128, 8, 1536, 8, 32},
    {"qwen3_next_80b_a3b", "Qwen/Qwen3-Next-80B-A3B-Instruct", "qwen3_next", 48, 2048, 5120, 16, 2, 256, 151936, 262144, false, 1e-6,
     1, 4, 1, 2, 2, 512, 10, 512, 8, 16, &kNext80b},
    {"qwen3_next_2b_fineweb", kFinewebTokenizer, "qwen3_next", 20, 1800, 4860, 14, 2, 128, 151936, 4096, true, 1e-6,
     2, 1, 2, 2, 2, 32, 4, 400, 1, 1, &kFineweb2b},
    {"qwen3_next_3b_fineweb", kFinewebTokenizer, "qwen3_next", 24, 2048, 5632, 16, 2, 128, 151936, 4096, true, 1e-6,
     2, 1, 2, 2, 2, 32, 4, 448, 1, 1, &kFineweb3b},
    {"qwen3_next_5b_fineweb",
     kFinewebTokenizer,
     "qwen3_next",
     30,
     2560,
     6912,
     20,
     2,
     128,
     151936,
     4096,
     true,
     1e-6,
     2,
     1,
     2,
     2,
     2,
     32,
     4,
     480,
     1,
     1,
     &kFineweb5b},
};

// --- what a family changes in a mode ---

void qwen2_pretrain(Config& c) {
  c.ddp.grad_reduce_in_fp32 = c.ddp.overlap_grad_reduce = c.ddp.overlap_param_gather = c.ddp.average_in_collective = false;
  c.ddp.data_parallel_sharding_strategy = "no_shard";
  c.tokenizer.tokenizer_type = "NullTokenizer";
  c.tokenizer.tokenizer_model.clear();
  c.tokenizer.vocab_size = 32000;
}

void qwen2_finetune(Config& c) {
  c.train.train_iters = c.scheduler.lr_decay_iters = 100;
  c.scheduler.lr_warmup_iters = 10;
  c.optimizer.adam_beta2 = 0.95;
  c.validation.eval_interval = 50;
  c.validation.eval_iters = 10;
}

void qwen2_sft(Config& c) {
  qwen2_finetune(c);
  c.ddp.grad_reduce_in_fp32 = false;
  c.ddp.use_distributed_optimizer = c.ddp.overlap_grad_reduce = c.ddp.overlap_param_gather = c.ddp.average_in_collective = true;
}

void qwen3_finetune(Config& c) {
  c.train.global_batch_size = 8;
  c.validation.eval_interval = 30;
  c.checkpoint.save_interval = 50;
  c.ddp.grad_reduce_in_fp32 = false;
}

void qwen3_moe_pretrain(Config& c) {
  c.model.expert_tensor_parallel_size = 1;
  c.model.expert_model_parallel_size = 4;
  c.model.sequence_parallel = true;
}

void qwen3_moe_finetune(Config& c) {
  qwen2_finetune(c);
  c.train.global_batch_size = 32;
  c.logger.log_interval = 10;
  c.ddp.overlap_grad_reduce = c.ddp.overlap_param_gather = c.ddp.average_in_collective = c.ddp.use_distributed_optimizer = true;
  c.model.expert_tensor_parallel_size = 1;
  c.model.expert_model_parallel_size = 4;
  c.model.sequence_parallel = true;
}

void apply_mode(Config& c, std::string_view family, RecipeMode mode) {
  const bool qwen3 = family == "qwen3";
  if (family == "qwen3_next") return mode == RecipeMode::pretrain ? qwen3_next_pretrain(c) : qwen3_next_finetune(c);
  if (family == "qwen3_moe") return mode == RecipeMode::pretrain ? qwen3_moe_pretrain(c) : qwen3_moe_finetune(c);
  if (mode == RecipeMode::pretrain) {
    if (!qwen3) qwen2_pretrain(c);
  } else if (qwen3) {
    qwen3_finetune(c);
  } else {
    mode == RecipeMode::sft ? qwen2_sft(c) : qwen2_finetune(c);
  }
}

// --- what single recipes change besides ---

void no_nan_check(Config& c) { c.ddp.check_for_nan_in_grad = false; }

void full_recompute(Config& c) {
  c.model.recompute_granularity = "full";
  c.model.recompute_method = "uniform";
}

void qwen3_8b_pretrain(Config& c) {
  c.model.tensor_model_parallel_size = 1;
  c.train.train_iters = c.scheduler.lr_decay_iters = 100;
  c.train.global_batch_size = 1024;
  c.train.micro_batch_size = 1;
  c.scheduler.lr_warmup_iters = 40;
  c.mixed_precision.grad_reduce_in_fp32 = c.ddp.grad_reduce_in_fp32 = false;
  c.optimizer.use_precision_aware_optimizer = true;
  c.checkpoint.save_interval = 50;
  c.checkpoint.load.clear();
}

void qwen3_8b_finetune(Config& c) {
  c.train.train_iters = c.scheduler.lr_decay_iters = 100;
  c.train.global_batch_size = 32;
  c.scheduler.lr_warmup_iters = 10;
  c.optimizer.adam_beta2 = 0.95;
  c.dataset.random_seed = 1234;
  c.checkpoint.save_interval = 100;
  c.checkpoint.load.clear();
  c.ddp.grad_reduce_in_fp32 = c.ddp.use_distributed_optimizer = true;
}

void qwen3_8b_peft(Config& c) {
  qwen3_8b_finetune(c);
  c.dataset.pad_seq_to_mult = 4;
  c.peft.dim = 8;
  c.peft.alpha = 16;
  c.peft.target_modules = {"linear_qkv", "linear_proj"};
}

// Long contexts: the sequence shared by ranks in pairs, exact loss per token.
void long_context(Config& c, int64_t length, int64_t context_ranks, int64_t batch) {
  c.model.seq_length = c.dataset.packed_sequence_size = length;
  c.model.max_position_embeddings = std::max(c.model.max_position_embeddings, length);
  c.model.context_parallel_size = context_ranks;
  c.model.cp_comm_type = "a2a";
  c.model.calculate_per_token_loss = true;
  c.model.cross_entropy_loss_fusion = false;
  c.train.global_batch_size = batch;
}

void qwen3_8b_32k(Config& c) {
  qwen3_8b_finetune(c);
  long_context(c, 32768, 2, 8);
  c.model.sequence_parallel = true;
  c.dataset.pad_seq_to_mult = 8;
}

void qwen3_600m_128k(Config& c) {
  long_context(c, 131072, 8, 2);
  c.dataset.pad_seq_to_mult = 16;
  c.optimizer.lr = c.optimizer.min_lr = 1e-6;
  c.optimizer.use_distributed_optimizer = false;
  c.scheduler.lr_warmup_iters = 10;
  c.scheduler.lr_warmup_init = 1e-11;
}

// --- Qwen3-MoE; the short names are the sixteen-GPU layouts, as in Bridge ---

void one_expert_group_of_16(Config& c) {
  c.model.tensor_model_parallel_size = c.model.pipeline_model_parallel_size = 1;
  c.model.expert_model_parallel_size = 16;
  c.model.sequence_parallel = false;
}

void qwen3_30b_pretrain(Config& c) {
  qwen3_8b_pretrain(c);
  one_expert_group_of_16(c);
  c.model.moe_token_dispatcher_type = "flex";
  c.comm_overlap.tp_comm_overlap = true;
}

void adapters_on_attention(Config& c) {
  c.peft.dim = 8;
  c.peft.alpha = 16;
  c.peft.target_modules = {"linear_qkv", "linear_proj"};
}

void qwen3_30b_sft_8gpu(Config& c) {
  c.model.moe_token_dispatcher_type = "flex";
  c.dataset.random_seed = 1234;
  c.dataset.pad_seq_to_mult = 4;
  c.checkpoint.load.clear();
}

void qwen3_30b_sft(Config& c) {
  qwen3_30b_sft_8gpu(c);
  one_expert_group_of_16(c);
  c.model.moe_token_dispatcher_type = "alltoall";
  c.dataset.pad_seq_to_mult = 1;
}

void qwen3_30b_peft(Config& c) {
  qwen3_30b_sft_8gpu(c);
  adapters_on_attention(c);
}

// 94 layers, the embedding and the output layer: 96 parts.
void qwen3_235b(Config& c) {
  c.model.account_for_embedding_in_pipeline_split = c.model.account_for_loss_in_pipeline_split = true;
  c.model.moe_token_dispatcher_type = "flex";
}

void qwen3_235b_pretrain(Config& c) {
  qwen3_235b(c);
  c.model.context_parallel_size = 2;
  c.model.expert_model_parallel_size = 8;
  c.train.micro_batch_size = 1;
}

void qwen3_235b_peft(Config& c) {
  qwen3_235b(c);
  c.model.pipeline_model_parallel_size = 4;
  adapters_on_attention(c);
}

struct Variant {
  std::string_view model, mode, suffix;  // mode "" all; suffix: a further recipe "<model>_<mode>_<suffix>_config"
  void (*change)(Config&);
};

constexpr Variant kVariants[] = {
    {"qwen2_500m", "pretrain", "", no_nan_check},  {"qwen2_1p5b", "pretrain", "", no_nan_check},
    {"qwen2_7b", "pretrain", "", no_nan_check},    {"qwen2_72b", "pretrain", "", no_nan_check},
    {"qwen3_32b", "", "", full_recompute},         {"qwen3_8b", "pretrain", "", qwen3_8b_pretrain},
    {"qwen3_8b", "sft", "", qwen3_8b_finetune},    {"qwen3_8b", "peft", "", qwen3_8b_peft},
    {"qwen3_8b", "sft", "32k", qwen3_8b_32k},      {"qwen3_600m", "sft", "128k", qwen3_600m_128k},
    {"qwen3_30b_a3b", "pretrain", "", qwen3_30b_pretrain},
    {"qwen3_30b_a3b", "pretrain", "8gpu_h100_bf16", full_recompute},
    {"qwen3_30b_a3b", "sft", "", qwen3_30b_sft},
    {"qwen3_30b_a3b", "sft", "8gpu_h100_bf16", qwen3_30b_sft_8gpu},
    {"qwen3_30b_a3b", "peft", "", qwen3_30b_peft},
    {"qwen3_235b_a22b", "pretrain", "", qwen3_235b_pretrain},
    {"qwen3_235b_a22b", "sft", "", qwen3_235b},
    {"qwen3_235b_a22b", "peft", "", qwen3_235b_peft},
};

constexpr std::pair<std::string_view, RecipeMode> kModes[] = {
    {"pretrain", RecipeMode::pretrain}, {"sft", RecipeMode::sft}, {"peft", RecipeMode::peft}};

}  // namespace

std::span<const RecipeModel> recipe_models() { return kModels; }

void set_architecture(ModelConfig& m, const RecipeModel& model) {
  const bool qwen3 = model.family.starts_with("qwen3");
  for (const Family& family : families())
    if (family.model_type == model.family) m.hf_architecture = family.architecture;
  PONTE_ASSERT(!m.hf_architecture.empty());
  m.model_type = model.family;
  m.num_layers = model.layers;
  m.hidden_size = model.hidden;
  m.ffn_hidden_size = model.ffn;
  m.num_attention_heads = model.heads;
  m.num_query_groups = model.groups;
  m.kv_channels = model.head_dim;
  m.vocab_size = model.vocab;
  m.max_position_embeddings = model.max_positions;
  m.share_embeddings_and_output_weights = model.tied;
  m.layernorm_epsilon = model.epsilon;
  m.rotary_base = 1e6;
  m.add_qkv_bias = !qwen3;
  m.qk_layernorm = qwen3;
  if (model.experts == 0) return;
  m.num_moe_experts = model.experts;
  m.moe_router_topk = model.experts_per_token;
  m.moe_ffn_hidden_size = model.expert_ffn;
  m.moe_aux_loss_coeff = 1e-3;
  if (model.hybrid) set_hybrid_architecture(m, model);
}

const std::vector<Recipe>& recipes() {
  static const std::vector<Recipe> all = [] {
    std::vector<Recipe> out;
    for (const RecipeModel& model : kModels)
      for (const auto& [mode_name, mode] : kModes) {
        if (is_guide(model)) {
          if (mode == RecipeMode::pretrain) out.push_back({std::string(model.name), &model, mode, nullptr});
          continue;
        }
        if (model.hybrid && mode == RecipeMode::peft) continue;
        const std::string stem = std::string(model.name) + "_" + std::string(mode_name) + "_";
        out.push_back({stem + "config", &model, mode, nullptr});
        const size_t plain = out.size() - 1;
        for (const Variant& v : kVariants) {
          if (v.model != model.name || (!v.mode.empty() && v.mode != mode_name)) continue;
          if (v.suffix.empty()) out[plain].variant = v.change;
          else out.push_back({stem + std::string(v.suffix) + "_config", &model, mode, v.change});
        }
      }
    return out;
  }();
  return all;
}

Config recipe_config(const Recipe& recipe, std::string_view layout) {
  const RecipeModel& model = *recipe.model;
  const bool peft = recipe.mode == RecipeMode::peft;
  Config c;
  if (recipe.mode == RecipeMode::pretrain) pretrain_base(c);
  else peft ? peft_base(c) : sft_base(c);
  set_architecture(c.model, model);
  c.tokenizer.tokenizer_model = model.hf_id;
  c.model.tensor_model_parallel_size = peft ? model.peft_tensor : model.tensor;
  c.model.pipeline_model_parallel_size = peft ? 1 : model.pipeline;
  apply_mode(c, model.family, recipe.mode);
  if (is_guide(model)) fineweb_pretrain(c, model.name);
  if (recipe.variant) recipe.variant(c);
  if (layout == "documentation") {
    c.model.tensor_model_parallel_size = peft ? model.page_peft_tensor : model.page_tensor;
    c.model.pipeline_model_parallel_size = model.page_pipeline;
    c.model.expert_model_parallel_size = model.page_expert;
    if (c.model.tensor_model_parallel_size == 1) c.model.sequence_parallel = false;
  }
  return c;
}

}  // namespace ponte
