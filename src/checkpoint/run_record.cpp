#include "checkpoint/run_record.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>

#include "base/errors.h"
#include "convert/native_writer.h"

namespace ponte {
namespace {

// Megatron keeps whole sample counts as int and a warm-up given as a fraction as float.
Value number(double value) {
  return value == std::floor(value) && std::abs(value) < 9e15 ? Value::integer(static_cast<int64_t>(value)) : Value::real(value);
}

Value param_group(const Config& config, const RunState& state, const Schedule& schedule, bool decayed) {
  const double wd_mult = decayed ? 1.0 : 0.0;
  return Value::dict_of({{"is_expert_parallel", Value::boolean(false)},
                         {"default_config", Value::boolean(true)},
                         {"wd_mult", Value::real(wd_mult)},
                         {"lr_mult", Value::real(1.0)},
                         {"is_decoupled_lr", Value::boolean(false)},
                         {"max_lr", Value::real(schedule.max_lr)},
                         {"min_lr", Value::real(schedule.min_lr)},
                         {"lr", Value::real(schedule.learning_rate(state.schedule_steps))},
                         {"betas", Value::tuple({Value::real(config.optimizer.adam_beta1), Value::real(config.optimizer.adam_beta2)})},
                         {"eps", Value::real(config.optimizer.adam_eps)},
                         {"weight_decay", Value::real(schedule.weight_decay(state.schedule_steps) * wd_mult)},
                         {"amsgrad", Value::boolean(false)},
                         {"maximize", Value::boolean(false)},
                         {"foreach", Value()},
                         {"capturable", Value::boolean(false)},
                         {"differentiable", Value::boolean(false)},
                         {"fused", Value()},
                         {"decoupled_weight_decay", Value::boolean(true)},
                         {"step", Value::real(static_cast<double>(state.optimizer_steps))}});
}

Value optimizer_value(const Config& config, const RunState& state, const Schedule& schedule) {
  std::vector<std::pair<std::string, Value>> out = {
      {"optimizer", Value::dict_of({{"param_groups", Value::list({param_group(config, state, schedule, true), param_group(config, state, schedule, false)})}})},
      {"param_state_sharding_type", Value::text("fully_reshardable")}};
  if (config.model.fp16)
    out.push_back({"grad_scaler", Value::dict_of({{"scale", Value::tensor(DType::f32, {1}, [&] {
                                                     const float scale = static_cast<float>(state.loss_scaler.scale);
                                                     return std::string(reinterpret_cast<const char*>(&scale), sizeof scale);
                                                   }())},
                                                  {"growth_tracker", Value::integer(state.loss_scaler.growth_tracker)},
                                                  {"hysteresis_tracker", Value::integer(state.loss_scaler.hysteresis_tracker)}})});
  return Value::dict_of(std::move(out));
}

Value schedule_value(const Schedule& s, int64_t steps) {
  return Value::dict_of({{"max_lr", Value::real(s.max_lr)},
                         {"lr_warmup_steps", number(s.lr_warmup_steps)},
                         {"num_steps", Value::integer(steps)},
                         {"lr_decay_style", Value::text(s.lr_decay_style)},
                         {"lr_decay_steps", Value::integer(s.lr_decay_steps)},
                         {"min_lr", Value::real(s.min_lr)},
                         {"start_wd", Value::real(s.start_wd)},
                         {"end_wd", Value::real(s.end_wd)},
                         {"wd_incr_style", Value::text(s.wd_incr_style)},
                         {"wd_incr_steps", Value::integer(s.wd_incr_steps)}});
}

Value raw_bytes(const std::string& bytes) { return Value::tensor(DType::u8, {static_cast<int64_t>(bytes.size())}, bytes); }

// 624 words and the position, as libstdc++ prints a std::mt19937 and as Python and numpy store theirs.
Values mersenne_words(int64_t seed) {
  std::stringstream text;
  text << std::mt19937(static_cast<uint32_t>(seed));
  Values out;
  for (int64_t word; text >> word;) out.push_back(Value::integer(word));
  PONTE_ASSERT(out.size() == 625);
  return out;
}

}  // namespace

Value common_state_value(const Config& config, const RunState& state, const Schedule* schedule) {
  std::vector<std::pair<std::string, Value>> out = {{"checkpoint_version", Value::real(3.0)}, {"iteration", Value::integer(state.train.step)}};
  if (schedule) {
    out.push_back({"optimizer", optimizer_value(config, state, *schedule)});
    out.push_back({"opt_param_scheduler", schedule_value(*schedule, state.schedule_steps)});
  }
  const Value of_import = common_state_of_import(config.model);
  if (const Value* arguments = of_import.find("args")) out.push_back({"args", *arguments});  // Megatron-LM takes the architecture from them
  out.push_back({"content_metadata", Value::dict_of({{"distrib_optim_sharding_type", Value::text("fully_reshardable")},
                                                     {"distrib_optim_fully_reshardable_mem_efficient", Value::boolean(false)},
                                                     {"singleton_local_shards", Value::boolean(false)},
                                                     {"chained_optim_avoid_prefix", Value::boolean(true)}})});
  return Value::dict_of(std::move(out));
}

Value train_state_value(const TrainState& state) {
  return Value::dict_of({{"step", Value::scalar(state.step)},
                         {"consumed_train_samples", Value::scalar(state.consumed_train_samples)},
                         {"skipped_train_samples", Value::scalar(state.skipped_train_samples)},
                         {"consumed_valid_samples", Value::scalar(state.consumed_valid_samples)},
                         {"floating_point_operations_so_far", Value::scalar_f64(state.floating_point_operations_so_far)},
                         {"do_train", Value::scalar(true)},
                         {"do_valid", Value::scalar(true)},
                         {"do_test", Value::scalar(false)}});
}

Value rng_state_value(int64_t seed, const std::string& torch_generator_state) {
  const Values words = mersenne_words(seed);
  const Value torch_state = raw_bytes(torch_generator_state);
  const Value cuda_state = raw_bytes(std::string(16, '\0'));
  return Value::dict_of(
      {{"random_rng_state", Value::tuple({Value::integer(3), Value::tuple(words), Value()})},
       {"np_rng_state", Value::tuple({Value::text("MT19937"), Value::list(Values(words.begin(), words.end() - 1)), words.back(), Value::integer(0),
                                      Value::real(0.0)})},
       {"torch_rng_state", torch_state},
       {"cuda_rng_state", cuda_state},
       {"rng_tracker_states",
        Value::dict_of({{"data-parallel-rng", cuda_state}, {"model-parallel-rng", cuda_state}, {"expert-parallel-rng", cuda_state}})}});
}

std::string torch_generator_state_from(const Value& rng_state, std::string_view what) {
  const std::span<const std::byte> bytes = rng_state.at("torch_rng_state", what).as_tensor(what).bytes(what);
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

TrainState train_state_from(const Value& train_state, std::string_view what) {
  const auto count = [&](const char* key) {
    const int64_t value = train_state.at(key, what).as_count(what);
    require(value >= 0, "{}: {} is {}, a count was wanted", what, key, value);
    return value;
  };
  return {.step = count("step"), .consumed_train_samples = count("consumed_train_samples"), .skipped_train_samples = count("skipped_train_samples"),
          .consumed_valid_samples = count("consumed_valid_samples"),
          .floating_point_operations_so_far = train_state.at("floating_point_operations_so_far", what).as_number(what)};
}

void read_common_state(const Value& common, std::string_view what, RunState& state) {
  if (const Value* schedule = common.find("opt_param_scheduler")) state.schedule_steps = schedule->at("num_steps", what).as_count(what);
  const Value* optimizer = common.find("optimizer");
  if (!optimizer) return;
  const Values& groups = optimizer->at("optimizer", what).at("param_groups", what).items(what);
  require(!groups.empty(), "{}: the optimizer has no parameter groups", what);
  state.optimizer_steps = groups[0].at("step", what).as_count(what);
  for (const Value& group : groups)
    require(group.at("step", what).as_count(what) == state.optimizer_steps, "{}: parameter groups are at different optimizer steps", what);
  if (const Value* scaler = optimizer->find("grad_scaler"); scaler && scaler->find("scale"))
    state.loss_scaler = {.scale = scaler->at("scale", what).as_number(what), .growth_tracker = scaler->at("growth_tracker", what).as_count(what),
                         .hysteresis_tracker = scaler->at("hysteresis_tracker", what).as_count(what)};
}

Json run_record_json(const RunState& state) {
  Json best = nullptr;
  if (state.best.iteration >= 0) best = Json{{"iteration", state.best.iteration}, {"val_loss", state.best.loss}};
  return Json{{"data", {{"order", state.data.order}, {"requested_train_samples", state.data.requested_train_samples},
                        {"train_fingerprint", state.data.train_fingerprint}, {"valid_fingerprint", state.data.valid_fingerprint}}},
              {"best_validation", best}};
}

void read_run_record(const Json& record, std::string_view what, RunState& state) {
  require(record.is_object() && record.contains("data"), "{}: no \"data\" entry", what);
  const Json& data = record.at("data");
  state.data = {.train_fingerprint = json_get<std::string>(data, "train_fingerprint", what),
                .valid_fingerprint = json_get<std::string>(data, "valid_fingerprint", what),
                .requested_train_samples = json_get<int64_t>(data, "requested_train_samples", what),
                .order = json_get<std::string>(data, "order", what)};
  if (record.contains("best_validation") && record.at("best_validation").is_object()) {
    const Json& best = record.at("best_validation");
    state.best = {.iteration = json_get<int64_t>(best, "iteration", what), .loss = json_get<double>(best, "val_loss", what)};
  }
}

Schedule reconcile_schedule(const Schedule& configured, const Value& common, SchedulePolicy policy, std::string_view what) {
  const Value* stored = common.find("opt_param_scheduler");
  if (!stored || policy == SchedulePolicy::from_config) return configured;
  Schedule out = configured;
  const auto take = [&](const char* key, auto& field, const auto& value) {
    require(policy == SchedulePolicy::from_checkpoint || field == value,
            "{}: its learning-rate schedule has {} {} and this run {}; set scheduler.override_opt_param_scheduler=true to keep this run's, or "
            "scheduler.use_checkpoint_opt_param_scheduler=true to keep the checkpoint's", what, key, value, field);
    field = value;
  };
  const auto real = [&](const char* key) { return stored->at(key, what).as_number(what); };
  take("max_lr", out.max_lr, real("max_lr"));
  take("min_lr", out.min_lr, real("min_lr"));
  take("lr_warmup_steps", out.lr_warmup_steps, real("lr_warmup_steps"));
  take("lr_decay_steps", out.lr_decay_steps, stored->at("lr_decay_steps", what).as_count(what));
  take("lr_decay_style", out.lr_decay_style, stored->at("lr_decay_style", what).as_text(what));
  if (stored->find("start_wd")) {
    take("start_wd", out.start_wd, real("start_wd"));
    take("end_wd", out.end_wd, real("end_wd"));
    take("wd_incr_steps", out.wd_incr_steps, stored->at("wd_incr_steps", what).as_count(what));
    take("wd_incr_style", out.wd_incr_style, stored->at("wd_incr_style", what).as_text(what));
  }
  return out;
}

}  // namespace ponte
