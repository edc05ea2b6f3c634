#include "checkpoint/foreign_state.h"

#include <algorithm>
#include <cstring>

#include "base/errors.h"

namespace ponte {
namespace {

using Entries = std::vector<std::pair<std::string, Value>>;

Value optimizer_state(Value groups, const std::string& sharding) {
  return Value::dict_of({{"optimizer", Value::dict_of({{"param_groups", std::move(groups)}})}, {"param_state_sharding_type", Value::text(sharding)}});
}

// The same value with another "optimizer".
Value with_optimizer(const Value& common, Value optimizer, const std::string& what) {
  Entries out;
  for (const auto& [key, value] : common.entries(what))
    if (key.as_text(what) != "optimizer") out.push_back({key.as_text(what), value});
  out.push_back({"optimizer", std::move(optimizer)});
  return Value::dict_of(std::move(out));
}

Value flat_optimizer(const TorchDistReader& reader, const std::string& what) {
  constexpr const char* kKey = "optimizer.distributed.dp_group_idx_0.optimizer/shard_0_1";
  require(reader.has_object(kKey), "{}: no '{}': the optimizer's step count is missing", what, kKey);
  const Value object = reader.object(kKey);
  const Value& state = object.kind() == Value::Kind::list && !object.items(what).empty() ? object.items(what)[0] : object;
  return optimizer_state(state.at("param_groups", what), "dp_reshardable");
}

// {0: {...}, 1: {...}}: optimizers of dense and expert parameters, chained. Their parameter groups in one list.
Value joined_optimizers(const Value& chained, const std::string& what) {
  Values groups;
  std::string sharding;
  for (const auto& [number, optimizer] : chained.entries(what)) {
    for (const Value& group : optimizer.at("optimizer", what).at("param_groups", what).items(what)) groups.push_back(group);
    sharding = optimizer.at("param_state_sharding_type", what).as_text(what);
  }
  return optimizer_state(Value::list(std::move(groups)), sharding);
}

// Every parameter has a step of its own; they are one number.
std::optional<double> fsdp_step(const TorchDistReader& reader, const std::string& what) {
  std::optional<double> step;
  for (const TorchDistTensor& tensor : reader.tensors()) {
    if (!tensor.name.starts_with("optimizer.state.") || !tensor.name.ends_with(".step")) continue;
    require(tensor.dtype == DType::f32 && tensor.chunks.size() == 1, "{}: '{}': one fp32 number was expected", what, tensor.name);
    const ChunkBytes bytes = reader.bytes(tensor, tensor.chunks[0]);
    float value = 0;
    require(bytes.bytes.size() == sizeof value, "{}: '{}': one fp32 number was expected", what, tensor.name);
    std::memcpy(&value, bytes.bytes.data(), sizeof value);
    require(!step || *step == value, "{}: parameters are at different optimizer steps, {} and {}", what, step.value_or(0), value);
    step = value;
  }
  return step;
}

std::optional<Value> fsdp_state(const TorchDistReader& reader, const std::string& what) {
  if (!reader.has_object("iteration")) return std::nullopt;
  Entries out, schedule;
  constexpr std::string_view kSchedule = "opt_param_scheduler.";
  for (const std::string& name : reader.objects()) {
    if (name == "iteration" || name == "checkpoint_version") out.push_back({name, reader.object(name)});
    if (name.starts_with(kSchedule)) schedule.push_back({name.substr(kSchedule.size()), reader.object(name)});
  }
  if (!schedule.empty()) out.push_back({"opt_param_scheduler", Value::dict_of(std::move(schedule))});
  if (const std::optional<double> step = fsdp_step(reader, what))
    out.push_back({"optimizer", optimizer_state(Value::list({Value::dict_of({{"step", Value::real(*step)}})}), "fsdp_dtensor")});
  return Value::dict_of(std::move(out));
}

}  // namespace

std::optional<Value> training_state(const TorchDistReader& reader) {
  const std::string what = reader.directory().string();
  const std::optional<Value> common = reader.common_state();
  if (!common) return fsdp_state(reader, what);
  const Value* optimizer = common->find("optimizer");
  if (!optimizer) return common;
  const Value* type = optimizer->find("param_state_sharding_type");
  const bool chained = !type && !optimizer->entries(what).empty() && optimizer->entries(what)[0].first.kind() == Value::Kind::integer;
  if (chained) return with_optimizer(*common, joined_optimizers(*optimizer, what), what);
  if (!type || type->as_text(what) != "dp_reshardable") return common;
  return with_optimizer(*common, flat_optimizer(reader, what), what);
}

}  // namespace ponte
