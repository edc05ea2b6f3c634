// From a resolved configuration to the objects of a run: model, data, optimizer, schedule, position.
#include <ATen/Context.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <chrono>
#include <set>

#include "base/errors.h"
#include "base/log.h"
#include "checkpoint/tensor_dtype.h"
#include "comm/same_settings.h"
#include "config/field.h"
#include "families/settings.h"
#include "kernels/fused_attention.h"
#include "train/run.h"
#include "train/starting_point.h"
#include "train/train_data.h"

namespace ponte {
namespace {

Mesh mesh_of(const Config& c, int64_t ranks) {
  MeshSizes sizes = mesh_sizes(c.model, ranks, c.dist.use_tp_pp_dp_mapping);
  sizes.optimizer_instances = c.ddp.num_distributed_optimizer_instances;
  return Mesh(sizes);
}

void check(const Config& config, int64_t world_size) {
  validate(config, world_size);
  mesh_of(config, world_size);
  const std::vector<std::string> missing = unsupported_parts(config, world_size);
  require(missing.empty(), "this version cannot run this configuration; it lacks:\n  {}", join(missing, "\n  "));
  const std::vector<std::string> unsaid = settings_config_json_cannot_say(config.model);
  require(unsaid.empty(), "{} in a {} would be lost: the config.json of that family, which export and generate go by, cannot say it", join(unsaid, ", "),
          config.model.hf_architecture);
  require(config.train.train_iters > 0, "train.train_iters is {}: expected the number of steps", config.train.train_iters);
}

LossScaler loss_scaler_of(const Config& config) {
  const OptimizerConfig& o = config.optimizer;
  if (o.loss_scale) return LossScaler::constant(*o.loss_scale);
  if (!config.model.fp16) return LossScaler::constant(1.0);
  return LossScaler::dynamic({.initial_scale = o.initial_loss_scale, .min_scale = o.min_loss_scale, .growth_interval = o.loss_scale_window,
                              .hysteresis = o.hysteresis});
}

// Taken before anything is read: a folder that cannot be written to, or that another run writes to, shows before the first step and not at the first
// checkpoint. What runs killed in the middle of a save or a removal left is cleared away.
std::unique_ptr<FolderLock> own_save_folder(const fs::path& save) {
  if (save.empty()) return nullptr;
  try {
    auto lock = std::make_unique<FolderLock>(save, "a training run");
    remove_leftovers(save, Writers::none_alive);
    return lock;
  } catch (const UserError& error) {
    fail("checkpoint.save {}", error.what());
  }
}

// Another run's checkpoints are not written over: the tracker and the iterations of two runs in one folder cannot be told apart.
void protect_other_runs(const Run& run) {
  const std::string& save = run.config.checkpoint.save;
  if (save.empty() || run.state.train.step > 0) return;
  const std::vector<int64_t> there = iterations_in(save);
  const bool started_from_it = there.size() == 1 && there[0] == 0;  // an import, made to be trained in place
  require(there.empty() || started_from_it,
          "checkpoint.save {}: another run has left iterations {} there; continue it with checkpoint.load={}, or choose another folder", save, there,
          save);
}

}  // namespace

Schedule schedule_of(const Config& config) {
  const SchedulerSteps steps = scheduler_steps(config);
  Schedule out{.init_lr = config.scheduler.lr_warmup_init, .max_lr = config.optimizer.lr, .min_lr = config.optimizer.min_lr,
               .lr_warmup_steps = steps.warmup, .lr_decay_steps = steps.decay, .lr_decay_style = config.scheduler.lr_decay_style,
               .wsd_decay_steps = steps.wsd_decay, .lr_wsd_decay_style = config.scheduler.lr_wsd_decay_style,
               .start_wd = config.scheduler.start_weight_decay.value_or(config.optimizer.weight_decay),
               .end_wd = config.scheduler.end_weight_decay.value_or(config.optimizer.weight_decay), .wd_incr_steps = steps.weight_decay,
               .wd_incr_style = config.scheduler.weight_decay_incr_style};
  out.validate();
  return out;
}

namespace {

Sharding sharding_of(const Config& c) {
  const std::string strategy = sharding_strategy(c);
  if (strategy == "no_shard") return Sharding::nothing;
  if (strategy == "optim") return Sharding::optimizer;
  return strategy == "optim_grads" ? Sharding::gradients : Sharding::parameters;
}

DataParallel::Settings replica_settings(const Config& c, int64_t replicas) {
  constexpr int64_t kLeast = 40'000'000, kPerReplica = 1'000'000;  // Megatron's default size of a bucket
  return {.sharding = sharding_of(c), .reduction = c.ddp.grad_reduce_in_fp32 ? Reduction::as_accumulated : Reduction::as_parameters,
          .copies = c.ddp.outer_dp_sharding_strategy == "optim" ? Copies::share_optimizer : Copies::keep_all,
          .gradients = c.ddp.overlap_grad_reduce ? Overlap::with_compute : Overlap::none,
          .values = c.ddp.overlap_param_gather ? Overlap::with_compute : Overlap::none,
          .bucket_elements = c.ddp.bucket_size > 0 ? c.ddp.bucket_size : std::max(kLeast, kPerReplica * replicas)};
}

}  // namespace

void build_model(Run& run, const at::Device& device) {
  const Config& c = run.config;
  run.groups = mesh_groups(*run.ranks, mesh_of(c, run.ranks->size()));
  const ModelOptions options{.device = device, .dtype = scalar_type_of(c.model.params_dtype), .parameters = Allocation::later};
  agree(run.ranks->world(), [&] { run.model = std::make_unique<RankModel>(c.model, run.groups, options); });
  run.replicas = std::make_unique<DataParallel>(run.model->chunks(), run.groups, replica_settings(c, run.groups.data_context->size()));
  std::vector<AdamW::Part> parts;
  for (const DataParallel::Share& share : run.replicas->shares()) {
    std::vector<Rows> counted;
    if (!share.parameter->is_copy) counted = intersection(own_rows(*share.parameter->rule, share.parameter->slice), share.own);
    parts.push_back({share.parameter, share.rows, std::move(counted)});
  }
  const OptimizerConfig& o = c.optimizer;
  run.optimizer = std::make_unique<AdamW>(parts, AdamSettings{.beta1 = o.adam_beta1, .beta2 = o.adam_beta2, .eps = o.adam_eps,
                                                              .apply_wd_to_qk_layernorm = o.apply_wd_to_qk_layernorm});
}

namespace {

// On a card: which, and which of ATen's kernels attention gets for the configured shape.
void say_device(const Run& run) {
  const ModelOptions& o = run.model->options();
  if (!run.speaks() || o.device.is_cpu()) return;
  const ModelConfig& c = run.config.model;
  const auto heads = [&](int64_t count) {
    return at::empty({1, count, run.config.dataset.seq_length, c.kv_channels}, at::TensorOptions(o.device).dtype(o.dtype));
  };
  const at::Tensor q = heads(c.num_attention_heads), k = heads(c.num_query_groups);
  const KeyRanges ranges = causal_ranges(1, run.config.dataset.seq_length, 0, {}, {});
  const FusedAttention kernel = fused_attention_for(q, k, k, ranges, 1.0);
  log_info("computing on {}, attention through {}", o.device.str(), kernel == FusedAttention::none ? "its definition" : name(kernel));
}

// Where things lie on a machine, and what rank 0 alone does with the log.
bool may_differ(const Field& field) {
  static const std::set<std::string> places{"dataset.data_path", "dataset.train_data_path", "dataset.valid_data_path", "dataset.test_data_path",
                                            "dataset.path_to_cache", "tokenizer.tokenizer_model", "checkpoint.pretrained_checkpoint"};
  return field.role == FieldRole::internal || field.section == "logger" || field.section == "profiling" || places.contains(field.name());
}

// A rank that goes by other settings would train something else.
void check_same_configuration_everywhere(const Run& run) {
  std::vector<std::string> mine;
  for (const Field& field : config_fields())
    if (!may_differ(field)) mine.push_back(field.name() + " = " + field.print(run.config));
  agree_on_settings(run.ranks->world(), mine, "its configuration is");
}

// The same files may not be the same bytes on every machine.
void check_same_data_everywhere(Run& run) {
  const DataRecord& d = run.state.data;
  const std::vector<std::string> all = gather_text(run.ranks->world(), d.train_fingerprint + " " + d.valid_fingerprint);
  for (size_t r = 1; r < all.size(); ++r)
    if (all[r] != all[0]) throw AgreedError(format("rank {} reads other data than rank 0: fingerprints {} and {}", r, all[r], all[0]));
}

// A launch that is started again goes on from the last checkpoint of its own, whatever it began with.
void go_on_from_own_checkpoint(Run& run, int64_t restarts) {
  CheckpointConfig& c = run.config.checkpoint;
  if (c.save.empty()) return;
  std::string verdict;
  agree(run.ranks->world(), [&] {
    if (!run.speaks()) return;
    if (restarts > 0 && (c.load.empty() || saved_since_launch(c.save))) verdict = "go on";
    else remove_launch_mark(c.save);  // of a launch that has died
  });
  if (gather_text(run.ranks->world(), verdict)[0].empty()) return;
  c.load = c.save;
  c.ckpt_step = 0;
  c.finetune = c.load_main_params_from_ckpt = false;
  c.load_optim = c.save_optim;
  c.load_rng = c.save_rng;
}

void find_checkpoint_to_load(Run& run) {
  const CheckpointConfig& c = run.config.checkpoint;
  if (c.load.empty()) return;
  std::optional<FoundCheckpoint> found;
  agree(run.ranks->world(), [&] {
    if (run.speaks()) found = find_checkpoint(c.load, c.ckpt_step);
  });
  const fs::path folder = gather_text(run.ranks->world(), found ? found->folder.string() : "")[0];
  if (folder.empty()) return;
  agree(run.ranks->world(), [&] {
    require(fs::is_directory(folder), "checkpoint.load: {} is there for rank 0 and not for this rank; the folder must be on a file system all ranks share",
            folder);
    run.found = FoundCheckpoint{folder, iteration_of(folder).value()};
  });
}

// Open, and whole.
StartingPoint same_starting_point_everywhere(const ResolvedRun& resolved, const Run& run) {
  StartingPoint out;
  std::string content;
  agree(run.ranks->world(), [&] {
    out = open_starting_point(resolved, run);
    content = out.fingerprint();
  });
  agree_on_settings(run.ranks->world(), {content}, "what it starts from is");
  agree(run.ranks->world(), [&] { check_starting_point(out, run); });
  return out;
}

}  // namespace

Run set_up_run(const ResolvedRun& resolved, std::shared_ptr<Ranks> ranks, const at::Device& device, int64_t restarts) {
  Run run;
  run.ranks = std::move(ranks);
  run.config = resolved.config;
  Group& everyone = run.ranks->world();
  run.ranks->phase("checking the configuration");
  agree(everyone, [&] {
    check(run.config, run.ranks->size());
    run.schedule = schedule_of(run.config);
    run.loss_scaler = loss_scaler_of(run.config);
    if (run.speaks()) run.save_lock = own_save_folder(run.config.checkpoint.save);
  });
  go_on_from_own_checkpoint(run, restarts);
  check_same_configuration_everywhere(run);
  at::manual_seed(static_cast<uint64_t>(run.config.rng.seed));  // LibTorch starts its generator anywhere, and checkpoints keep its state
  run.ranks->phase("looking for a checkpoint");
  find_checkpoint_to_load(run);
  run.ranks->phase("opening the data");
  agree(everyone, [&] {
    std::string& order = run.config.dataset.order;
    const bool chosen_here = order.empty();
    order = sample_order(run);
    if (chosen_here && run.speaks())
      log_info("dataset.order: {}", order == "megatron" ? "megatron (samples in Megatron Core's order)"
                                                        : "permutation (samples shuffled anew each epoch, no index files; megatron is Megatron Core's order)");
    open_data(resolved, run);
  });
  check_same_data_everywhere(run);
  run.ranks->phase("building the model");
  build_model(run, device);
  say_device(run);
  run.ranks->phase("checking what it starts from");
  StartingPoint start = same_starting_point_everywhere(resolved, run);
  run.ranks->phase("loading");
  agree(everyone, [&] {
    go_to_starting_point(start, run);
    protect_other_runs(run);
  });
  return run;
}

}  // namespace ponte
