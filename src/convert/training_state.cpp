#include "convert/training_state.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <map>
#include <set>

#include "base/errors.h"

namespace ponte {
namespace {

using Entries = std::vector<std::pair<std::string, Value>>;

constexpr std::string_view kGroupMeta = "optimizer.param_to_group_meta.", kSchedule = "opt_param_scheduler.", kRandom = "rng_state";

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

// Parameter groups of an optimizer with flat buckets. prefix: "", or "chained_1." of one in a chain.
Value flat_groups(const TorchDistReader& reader, const std::string& prefix, const std::string& what) {
  const std::string key = prefix + "optimizer.distributed.dp_group_idx_0.optimizer/shard_0_1";
  require(reader.has_object(key), "{}: no '{}': the optimizer's step count is missing", what, key);
  const Value object = reader.object(key);
  const Value& state = object.kind() == Value::Kind::list && !object.items(what).empty() ? object.items(what)[0] : object;
  return state.at("param_groups", what);
}

// {0: {...}, 1: {...}}: optimizers of dense and expert parameters, chained. Their parameter groups in one list.
Value joined_optimizers(const TorchDistReader& reader, const Value& chained, const std::string& what) {
  Values groups;
  std::string sharding;
  for (const auto& [number, optimizer] : chained.entries(what)) {
    sharding = optimizer.at("param_state_sharding_type", what).as_text(what);
    const bool flat = sharding == "dp_reshardable";
    const Value own = flat ? flat_groups(reader, format("chained_{}.", number.as_integer(what)), what)
                           : optimizer.at("optimizer", what).at("param_groups", what);
    for (const Value& group : own.items(what)) groups.push_back(group);
  }
  return optimizer_state(Value::list(std::move(groups)), sharding);
}

// Every parameter has a step of its own; they are one number.
std::optional<double> fsdp_step(const TorchDistReader& reader, const std::string& what) {
  std::optional<double> step;
  for (const TorchDistTensor& tensor : reader.tensors()) {
    if (!tensor.name.starts_with("optimizer.state.") || !tensor.name.ends_with(".step")) continue;
    require(tensor.dtype == DType::f32 && tensor.chunks.size() == 1, "{}: '{}': one fp32 number was expected", what, tensor.name);
    const ChunkBytes bytes = reader.bytes(tensor, tensor.chunks[0], CheckCrc::yes);
    float value = 0;
    require(bytes.bytes.size() == sizeof value, "{}: '{}': one fp32 number was expected", what, tensor.name);
    std::memcpy(&value, bytes.bytes.data(), sizeof value);
    require(!step || *step == value, "{}: parameters are at different optimizer steps, {} and {}", what, step.value_or(0), value);
    step = value;
  }
  return step;
}

// Every parameter keeps its group's settings; parameters of one group agree in all of them. In the order of the first parameter of each.
Values fsdp_groups(const TorchDistReader& reader, double step) {
  std::map<std::string, Entries> by_parameter;
  for (const std::string& name : reader.objects()) {
    if (!name.starts_with(kGroupMeta)) continue;
    const size_t field = name.rfind('.');
    by_parameter[name.substr(kGroupMeta.size(), field - kGroupMeta.size())].push_back({name.substr(field + 1), reader.object(name)});
  }
  Values out;
  std::set<std::string> seen;
  for (auto& [parameter, fields] : by_parameter) {
    std::erase_if(fields, [](const auto& field) { return field.first == "step"; });
    fields.push_back({"step", Value::real(step)});
    Value group = Value::dict_of(fields);
    std::sort(fields.begin(), fields.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    if (seen.insert(write_pickle(Value::dict_of(std::move(fields)))).second) out.push_back(std::move(group));
  }
  if (out.empty()) out.push_back(Value::dict_of({{"step", Value::real(step)}}));
  return out;
}

std::optional<Value> fsdp_state(const TorchDistReader& reader, const std::string& what) {
  if (!reader.has_object("iteration")) return std::nullopt;
  Entries out, schedule;
  for (const std::string& name : reader.objects()) {
    if (name == "iteration" || name == "checkpoint_version") out.push_back({name, reader.object(name)});
    if (name.starts_with(kSchedule)) schedule.push_back({name.substr(kSchedule.size()), reader.object(name)});
  }
  if (!schedule.empty()) out.push_back({"opt_param_scheduler", Value::dict_of(std::move(schedule))});
  if (const std::optional<double> step = fsdp_step(reader, what))
    out.push_back({"optimizer", optimizer_state(Value::list(fsdp_groups(reader, *step)), "fsdp_dtensor")});
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
  if (chained) return with_optimizer(*common, joined_optimizers(reader, *optimizer, what), what);
  if (!type || type->as_text(what) != "dp_reshardable") return common;
  return with_optimizer(*common, optimizer_state(flat_groups(reader, "", what), "dp_reshardable"), what);
}

namespace {

// The numbers of `text`, which are separated by single characters of any other kind; nullopt when there are not `count` of them.
std::optional<std::vector<int64_t>> numbers_in(std::string_view text, size_t count) {
  std::vector<int64_t> out;
  for (size_t at = 0; at < text.size();) {
    int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data() + at, text.data() + text.size(), value);
    if (error == std::errc() && value >= 0) {
      out.push_back(value);
      at = static_cast<size_t>(end - text.data());
    } else {
      ++at;
    }
  }
  return out.size() == count ? std::optional(out) : std::nullopt;
}

// A dict of dicts being put together from dotted names.
struct Branch {
  std::map<std::string, Branch> branches;
  std::optional<Value> leaf;
  Value value() const {
    if (leaf) return *leaf;
    Entries out;
    for (const auto& [name, branch] : branches) out.push_back({name, branch.value()});
    return Value::dict_of(std::move(out));
  }
};

// "(0, 0).0.rng_tracker_states.data-parallel-rng": ranks, replica, and the path of a leaf.
void place_leaf(const std::string& name, Value leaf, std::map<std::vector<int64_t>, std::map<int64_t, Branch>>& trees) {
  const size_t ranks_end = name.find(").");
  if (ranks_end == std::string::npos) return;
  const auto ranks = numbers_in(std::string_view(name).substr(0, ranks_end), 2);
  const size_t path = name.find('.', ranks_end + 2);
  if (!ranks || path == std::string::npos) return;
  const auto replica = numbers_in(std::string_view(name).substr(ranks_end + 2, path - ranks_end - 2), 1);
  if (!replica) return;
  Branch* at = &trees[*ranks][(*replica)[0]];
  const std::string rest = name.substr(path + 1);
  const size_t dot = rest.find('.');
  at = &at->branches[rest.substr(0, dot)];
  if (dot != std::string::npos) at = &at->branches[rest.substr(dot + 1)];
  at->leaf = std::move(leaf);
}

std::vector<RandomState> fsdp_random_states(const TorchDistReader& reader) {
  const std::string prefix = std::string(kRandom) + ".";
  std::map<std::vector<int64_t>, std::map<int64_t, Branch>> trees;
  for (const std::string& name : reader.objects())
    if (name.starts_with(prefix)) place_leaf(name.substr(prefix.size()), reader.object(name), trees);
  for (const TorchDistTensor& tensor : reader.tensors()) {
    if (!tensor.name.starts_with(prefix) || tensor.chunks.size() != 1) continue;
    const ChunkBytes bytes = reader.bytes(tensor, tensor.chunks[0], CheckCrc::yes);
    std::string copy(reinterpret_cast<const char*>(bytes.bytes.data()), bytes.bytes.size());
    place_leaf(tensor.name.substr(prefix.size()), Value::tensor(tensor.dtype, tensor.shape, std::move(copy)), trees);
  }
  std::vector<RandomState> out;
  for (const auto& [ranks, replicas] : trees) {
    out.push_back({ranks[0], ranks[1], {}});
    for (const auto& [number, tree] : replicas) out.back().replicas.push_back(tree.value());
  }
  return out;
}

void add_random_leaf(const std::string& name, const Value& value, NativeExtras& out) {
  if (value.kind() == Value::Kind::tensor) {
    const TensorValue& tensor = value.as_tensor(name);
    const std::vector<std::byte> bytes = tensor.gather(name);
    out.tensors.push_back({{name, tensor.dtype, tensor.shape}, std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size())});
  } else if (value.kind() == Value::Kind::dict) {
    for (const auto& [key, inner] : value.entries(name)) add_random_leaf(name + "." + key.as_text(name), inner, out);
  } else {
    out.objects.push_back({name, value});
  }
}

// Megatron's classes of weight decay: biases and one-dimensional weights are not decayed; of those, query and key norms may be.
bool is_decayed(const Rule& rule, FsdpStateOptions options) {
  if (rule.leaf.ends_with("q_layernorm.weight") || rule.leaf.ends_with("k_layernorm.weight")) return options.decay_qk_norms;
  return rule.shape.size() > 1 && !rule.leaf.ends_with(".bias");
}

// The group this parameter is in: same class of decay, and of experts where the groups tell.
const Value& group_of(const Rule& rule, const Values& groups, FsdpStateOptions options, const std::string& what) {
  const bool decayed = is_decayed(rule, options);
  const Value* found = nullptr;
  for (const Value& group : groups) {
    const Value* multiplier = group.find("wd_mult");
    if (multiplier && (multiplier->as_number(what) != 0) != decayed) continue;
    const Value* expert = group.find("is_expert_parallel");
    if (!found || (expert && expert->as_boolean(what) == (rule.expert >= 0))) found = &group;
  }
  require(found != nullptr, "{}: {} is in none of the {} parameter groups", what, rule.name(), groups.size());
  return *found;
}

void add_fsdp_optimizer(const RuleTable& table, const Value& optimizer, FsdpStateOptions options, NativeExtras& out) {
  const std::string what = "optimizer";
  const Values& groups = optimizer.at("optimizer", what).at("param_groups", what).items(what);
  for (const Rule& rule : table.rules) {
    if (!rule.is_optimized()) continue;
    const Value& group = group_of(rule, groups, options, what);
    for (const auto& [key, value] : group.entries(what)) {
      const std::string& field = key.as_text(what);
      if (field != "params") out.objects.push_back({format("{}{}.{}", kGroupMeta, fsdp_parameter(rule), field), value});
    }
    const auto step = static_cast<float>(group.at("step", what).as_number(what));
    for (size_t s = 0; s < rule.segments.size(); ++s) {
      const std::string weight = stored_segment(rule, s, {Container::fsdp_dtensor, LayerKeys::numbered}).key;
      const std::string key = state_key(weight, "step", Container::fsdp_dtensor);
      if (s > 0 && out.tensors.back().spec.name == key) continue;  // segments that are chunks of one tensor
      out.tensors.push_back({{key, DType::f32, {}}, std::string(reinterpret_cast<const char*>(&step), sizeof step)});
    }
  }
}

}  // namespace

std::vector<RandomState> random_states(const TorchDistReader& reader) {
  std::vector<RandomState> out;
  for (const std::string& name : reader.objects()) {
    if (!name.starts_with("rng_state/shard_")) continue;
    const auto ranks = numbers_in(std::string_view(name).substr(name.find("shard_") + 6), 4);
    if (!ranks) continue;
    const Value object = reader.object(name);
    const Values& outer = object.items(name);
    if (!outer.empty() && outer[0].kind() == Value::Kind::list) out.push_back({(*ranks)[0], (*ranks)[1], outer[0].items(name)});
  }
  return out.empty() ? fsdp_random_states(reader) : out;
}

Value common_state_of(const ModelConfig& config, const Value& state) {
  const std::string what = "training state";
  const Value* optimizer = state.find("optimizer");
  const Value base = common_state_of_import(config);
  Entries out;
  for (const auto& [key, value] : state.entries(what))
    if (const std::string& name = key.as_text(what); name != "optimizer" && name != "content_metadata") out.push_back({name, value});
  for (const auto& [key, value] : base.entries(what))
    if (const std::string& name = key.as_text(what); name != "content_metadata" && !state.find(name)) out.push_back({name, value});
  Entries metadata;
  if (optimizer) {
    Entries joined;
    for (const auto& [key, value] : optimizer->entries(what))
      if (key.as_text(what) != "param_state_sharding_type") joined.push_back({key.as_text(what), value});
    joined.push_back({"param_state_sharding_type", Value::text("fully_reshardable")});
    out.push_back({"optimizer", Value::dict_of(std::move(joined))});
    metadata = {{"distrib_optim_sharding_type", Value::text("fully_reshardable")}, {"distrib_optim_fully_reshardable_mem_efficient", Value::boolean(false)}};
  }
  metadata.push_back({"singleton_local_shards", Value::boolean(false)});
  metadata.push_back({"chained_optim_avoid_prefix", Value::boolean(true)});
  out.push_back({"content_metadata", Value::dict_of(std::move(metadata))});
  return Value::dict_of(std::move(out));
}

NativeExtras torch_dist_extras(const std::vector<RandomState>& random) {
  NativeExtras out;
  int64_t pipeline = 0, tensor = 0;
  for (const RandomState& state : random) {
    pipeline = std::max(pipeline, state.pipeline + 1);
    tensor = std::max(tensor, state.tensor + 1);
  }
  for (const RandomState& state : random)
    out.objects.push_back(
        {format("{}/shard_{}.{}_{}.{}", kRandom, state.pipeline, state.tensor, pipeline, tensor), Value::list({Value::list(state.replicas)})});
  return out;
}

NativeExtras fsdp_extras(const RuleTable& table, const Value& state, const std::vector<RandomState>& random, FsdpStateOptions options) {
  const std::string what = "training state";
  NativeExtras out;
  for (const auto& [key, value] : state.entries(what)) {
    const std::string& name = key.as_text(what);
    if (name == "iteration" || name == "checkpoint_version") out.objects.push_back({name, value});
    if (name == "opt_param_scheduler")
      for (const auto& [field, setting] : value.entries(what)) out.objects.push_back({std::string(kSchedule) + field.as_text(what), setting});
  }
  if (const Value* optimizer = state.find("optimizer")) add_fsdp_optimizer(table, *optimizer, options, out);
  for (const RandomState& ranks : random)
    for (size_t replica = 0; replica < ranks.replicas.size(); ++replica)
      add_random_leaf(format("{}.({}, {}).{}", kRandom, ranks.pipeline, ranks.tensor, replica), ranks.replicas[replica], out);
  return out;
}

}  // namespace ponte
