// RunState to and from the objects of a checkpoint: common.pt and train_state.pt with the keys Megatron reads and writes, ponte/run.json with what
// only Ponte keeps.
#pragma once
#include <nlohmann/json_fwd.hpp>

#include "base/json.h"
#include "checkpoint/run_state.h"
#include "config/config.h"
#include "format/pickle.h"
#include "optim/schedule.h"

namespace ponte {

// Megatron's non-sharded state. Without `schedule` there is no optimizer in the checkpoint.
Value common_state_value(const Config& config, const RunState& state, const Schedule* schedule);
Value train_state_value(const TrainState& state);
// One rank's random state: torch's generator as it stands; the generators only Megatron has, freshly seeded.
Value rng_state_value(int64_t seed, const std::string& torch_generator_state);
std::string torch_generator_state_from(const Value& rng_state, std::string_view what);
Json run_record_json(const RunState& state);

// Reading back. `what` names the checkpoint in errors.
TrainState train_state_from(const Value& train_state, std::string_view what);
// Fills schedule_steps, optimizer_steps and loss_scaler from common.pt.
void read_common_state(const Value& common, std::string_view what, RunState& state);
void read_run_record(const Json& record, std::string_view what, RunState& state);

enum class SchedulePolicy { must_match, from_checkpoint, from_config };
// Megatron's rule on resume: the stored schedule must equal the configured one unless one of the two is preferred by name
// (scheduler.use_checkpoint_opt_param_scheduler, scheduler.override_opt_param_scheduler). UserError naming the field and both values.
Schedule reconcile_schedule(const Schedule& configured, const Value& common, SchedulePolicy policy, std::string_view what);

}  // namespace ponte
