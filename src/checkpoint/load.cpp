#include "checkpoint/load.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "base/errors.h"
#include "base/json.h"
#include "base/log.h"
#include "base/parallel.h"
#include "convert/training_state.h"
#include "checkpoint/tensor_dtype.h"
#include "format/torch_dist.h"
#include "kernels/device.h"

namespace ponte {
namespace {

void load_optimizer(const WeightSource& source, AdamW& optimizer, const at::Device& device) {
  const std::span<AdamW::Slot> slots = optimizer.slots();
  const auto load = [&](int64_t i, StagingBuffer& buffer) {
    const AdamW::Slot& slot = slots[i];
    const std::pair<const char*, const at::Tensor*> parts[] = {{"optimizer.state.param.", &slot.main_param},
                                                               {"optimizer.state.exp_avg.", &slot.exp_avg},
                                                               {"optimizer.state.exp_avg_sq.", &slot.exp_avg_sq}};
    const Slice& held = slot.parameter->slice;
    for (const auto& [prefix, tensor] : parts)
      buffer.fill(tensor->detach(), tensor->scalar_type(), [&](int64_t first, int64_t rows, std::span<std::byte> out) {
        const Rows wanted{slot.rows.begin + first, slot.rows.begin + first + rows};
        source.read_state(prefix, *slot.parameter->rule, wanted.count() == held.shape[0] ? held : rows_of(held, wanted), out,
                          dtype_of(tensor->scalar_type()));
      });
  };
  const auto count = static_cast<int64_t>(slots.size());
  if (!device.is_cpu()) return for_each_staged(count, device, load);
  parallel_for(count, 0, [&](int64_t i) {
    StagingBuffer none(0);  // host memory is filled in place
    load(i, none);
  });
}

// Flat state names nothing: that its main parameters round to the weights beside it shows that it was taken apart in the right places.
void check_main_params(AdamW& optimizer, const std::string& what) {
  for (const AdamW::Slot& slot : optimizer.slots())
    require(at::equal(slot.main_param.to(at::kBFloat16), slot.value.to(at::kBFloat16)) ||
                at::equal(slot.main_param.to(slot.value.scalar_type()), slot.value),
            "{}: the main parameters of {} do not round to its weights", what, slot.parameter->name);
}

// Whether the checkpoint holds optimizer state; UserError where it is in a layout this version does not read.
bool has_optimizer_state(const Value& common, std::string_view what) {
  const Value* optimizer = common.find("optimizer");
  if (!optimizer) return false;
  const Value* type = optimizer->find("param_state_sharding_type");
  const std::string layout = type ? type->as_text(what) : "";
  require(layout == "fully_reshardable" || layout == "dp_reshardable" || layout == "fsdp_dtensor",
          "{}: its optimizer state is stored as {}; this version resumes from fully_reshardable (checkpoint.dist_ckpt_optim_fully_reshardable=true when "
          "saving), dp_reshardable and fsdp_dtensor; checkpoint.load_optim=false takes the weights alone",
          what, type ? type->as_text(what) : std::string("parameters of a single process"));
  return true;
}

void restore_generator(const TorchDistReader& reader) {
  const std::vector<RandomState> stored = random_states(reader);
  if (stored.empty() || stored[0].replicas.empty()) return;
  const std::string state = torch_generator_state_from(stored[0].replicas[0], reader.directory().string() + ": random state");
  at::Tensor tensor = at::empty({static_cast<int64_t>(state.size())}, at::kByte);
  std::memcpy(tensor.data_ptr(), state.data(), state.size());
  at::Generator generator = at::detail::getDefaultCPUGenerator();
  generator.set_state(tensor);
}

SchedulePolicy policy_of(const SchedulerConfig& config) {
  if (config.override_opt_param_scheduler) return SchedulePolicy::from_config;
  return config.use_checkpoint_opt_param_scheduler ? SchedulePolicy::from_checkpoint : SchedulePolicy::must_match;
}

}  // namespace

std::optional<DataRecord> stored_data(const FoundCheckpoint& checkpoint) {
  const fs::path file = checkpoint.folder / kRunRecord;
  if (!fs::exists(file)) return std::nullopt;
  RunState state;
  read_run_record(read_json(file), file.string(), state);
  return state.data;
}

LoadedRun load_run(const NativeSource& source, const Config& config, const Schedule& schedule, RankModel& model, AdamW* optimizer) {
  const fs::path& folder = source.iteration_directory();
  const std::string what = folder.string();
  const std::optional<Value> common = training_state(source.reader());
  require(common.has_value(), "{}: no common.pt, no common_state and no iteration object: not a checkpoint of a run", what);
  const bool with_optimizer = optimizer && has_optimizer_state(*common, what);
  LoadedRun out{.state = {}, .schedule = with_optimizer ? reconcile_schedule(schedule, *common, policy_of(config.scheduler), what) : schedule,
                .has_optimizer = with_optimizer};
  if (fs::exists(folder / "train_state.pt"))
    out.state.train = train_state_from(load_torch_file(folder / "train_state.pt"), what + "/train_state.pt");
  else if (const Value* iteration = common->find("iteration"))
    out.state.train.step = iteration->as_count(what);
  const bool ours = fs::exists(folder / kRunRecord);
  if (ours) read_run_record(read_json(folder / kRunRecord), what + "/" + kRunRecord, out.state);

  model.load(source);
  if (with_optimizer) {
    read_common_state(*common, what, out.state);
    load_optimizer(source, *optimizer, model.options().device);
    if (common->at("optimizer", what).at("param_state_sharding_type", what).as_text(what) == "dp_reshardable") check_main_params(*optimizer, what);
    optimizer->set_steps(out.state.optimizer_steps);
  } else if (optimizer) {
    optimizer->main_params_from_values();
  }
  if (config.checkpoint.load_rng && ours) restore_generator(source.reader());  // a generator state of another program means nothing here
  return out;
}

}  // namespace ponte
