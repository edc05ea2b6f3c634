// What a configuration may ask for that this version cannot do in training: one row each, taken out when the part exists.
#include "config/config.h"

#include "base/format.h"

namespace ponte {
namespace {

struct Part {
  std::string_view what;
  bool (*asked)(const Config&, int64_t world_size);
  std::string_view because;  // the key that asks for it
};

constexpr Part kParts[] = {
    {"training on more than one rank", [](const Config&, int64_t world_size) { return world_size > 1; }, "number of ranks"},
    {"tensor parallelism in training", [](const Config& c, int64_t) { return c.model.tensor_model_parallel_size > 1; },
     "model.tensor_model_parallel_size"},
    {"pipeline parallelism", [](const Config& c, int64_t) { return c.model.pipeline_model_parallel_size > 1; },
     "model.pipeline_model_parallel_size"},
    {"context parallelism", [](const Config& c, int64_t) { return c.model.context_parallel_size > 1; }, "model.context_parallel_size"},
    {"expert parallelism", [](const Config& c, int64_t) { return c.model.expert_model_parallel_size > 1; }, "model.expert_model_parallel_size"},
    {"mixture of experts", [](const Config& c, int64_t) { return c.model.num_moe_experts > 0; }, "model.num_moe_experts"},
    {"gated delta net layers", [](const Config& c, int64_t) { return !c.model.experimental_attention_variant.empty(); },
     "model.experimental_attention_variant"},
    {"multi-token prediction", [](const Config& c, int64_t) { return c.model.mtp_num_layers > 0; }, "model.mtp_num_layers"},
    {"fully sharded data parallelism", [](const Config& c, int64_t) { return c.ddp.use_megatron_fsdp || c.dist.use_torch_fsdp2; },
     "ddp.use_megatron_fsdp"},
    {"fsdp_dtensor checkpoints in training", [](const Config& c, int64_t) { return c.checkpoint.ckpt_format == "fsdp_dtensor"; },
     "checkpoint.ckpt_format"},
    {"adapters (LoRA, DoRA)", [](const Config& c, int64_t) { return !c.peft.scheme.empty(); }, "peft.scheme"},
    {"fine-tuning data (dataset.kind=sft)", [](const Config& c, int64_t) { return c.dataset.kind == "sft"; }, "dataset.kind"},
    {"epochs", [](const Config& c, int64_t) { return c.train.num_epochs > 0; }, "train.num_epochs"},
    {"optimizers other than adam", [](const Config& c, int64_t) { return c.optimizer.optimizer != "adam"; }, "optimizer.optimizer"},
    {"coupled weight decay", [](const Config& c, int64_t) { return !c.optimizer.decoupled_weight_decay; }, "optimizer.decoupled_weight_decay"},
    {"separate learning rate of the embedding", [](const Config& c, int64_t) { return c.optimizer.decoupled_lr.has_value(); },
     "optimizer.decoupled_lr"},
    {"optimizer state in host memory", [](const Config& c, int64_t) { return c.optimizer.optimizer_cpu_offload; },
     "optimizer.optimizer_cpu_offload"},
    {"optimizer state in other dtypes", [](const Config& c, int64_t) { return c.optimizer.use_precision_aware_optimizer; },
     "optimizer.use_precision_aware_optimizer"},
    {"8-bit and 4-bit matrix multiplication",
     [](const Config& c, int64_t) { return !c.mixed_precision.fp8.empty() || !c.mixed_precision.fp4.empty(); }, "mixed_precision"},
    {"batch size ramps", [](const Config& c, int64_t) { return !c.train.rampup_batch_size.empty(); }, "train.rampup_batch_size"},
    {"dropout", [](const Config& c, int64_t) { return c.model.hidden_dropout > 0 || c.model.attention_dropout > 0; },
     "model.hidden_dropout, model.attention_dropout"},
    {"attention limited to documents", [](const Config& c, int64_t) { return c.dataset.reset_attention_mask || c.dataset.reset_position_ids; },
     "dataset.reset_attention_mask, dataset.reset_position_ids"},
    {"asynchronous checkpoints", [](const Config& c, int64_t) { return c.checkpoint.async_save; }, "checkpoint.async_save"},
    {"non-persistent checkpoints", [](const Config& c, int64_t) { return c.checkpoint.non_persistent_save_interval > 0; },
     "checkpoint.non_persistent_save_interval"},
    {"traces of steps", [](const Config& c, int64_t) { return c.profiling.use_pytorch_profiler; }, "profiling.use_pytorch_profiler"},
};

}  // namespace

std::vector<std::string> unsupported_parts(const Config& config, int64_t world_size) {
  std::vector<std::string> out;
  for (const Part& part : kParts)
    if (part.asked(config, world_size)) out.push_back(format("{} ({})", part.what, part.because));
  return out;
}

}  // namespace ponte
