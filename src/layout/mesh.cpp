#include "layout/mesh.h"

#include <algorithm>
#include <string_view>

#include "base/errors.h"
#include "base/format.h"

namespace ponte {
namespace {

struct KindFacts {
  const char* name;
  std::vector<std::string_view> axes;  // of the generator; embedding: its pipeline's
  bool sparse;
};

const KindFacts& facts(GroupKind kind) {
  static const KindFacts table[kGroupKinds] = {
      {"tensor", {"tp"}, false},          {"context", {"cp"}, false},
      {"context-inner", {"cp"}, false},   {"context-outer", {"cp"}, false},
      {"data", {"dp"}, false},            {"data-context", {"dp", "cp"}, false},
      {"tensor-context", {"tp", "cp"}, false}, {"pipeline", {"pp"}, false},
      {"embedding", {"pp"}, false},       {"model", {"tp", "pp"}, false},
      {"expert", {"ep"}, true},           {"expert-tensor", {"tp"}, true},
      {"expert-tensor-expert", {"tp", "ep"}, true}, {"expert-data", {"dp"}, true},
      {"data-context shares", {"dp", "cp"}, false}, {"data-context copies", {"dp", "cp"}, false},
      {"expert-data shares", {"dp"}, true}, {"expert-data copies", {"dp"}, true},
      {"world", {"tp", "cp", "dp", "pp"}, false}};
  return table[static_cast<size_t>(kind)];
}

bool contains(const std::vector<std::string_view>& names, std::string_view name) { return std::find(names.begin(), names.end(), name) != names.end(); }

}  // namespace

const char* name_of(GroupKind kind) { return facts(kind).name; }

MeshSizes mesh_sizes(const ModelConfig& c, int64_t world_size, bool pipeline_before_data) {
  MeshSizes out;
  out.tensor = c.tensor_model_parallel_size;
  out.context = c.context_parallel_size;
  if (c.cp_comm_type == "a2a+p2p" && out.context > 1) {
    const std::vector<int64_t>& levels = c.hierarchical_context_parallel_sizes;
    require(levels.size() == 2 && levels[0] > 0 && out.context % levels[0] == 0 && out.context / levels[0] == levels[1],
            "model.cp_comm_type=a2a+p2p wants model.hierarchical_context_parallel_sizes: two sizes whose product is context_parallel_size {}, not {}",
            out.context, levels);
    out.context_inner = levels[0];
  }
  out.pipeline = c.pipeline_model_parallel_size;
  out.expert = c.expert_model_parallel_size;
  out.expert_tensor = c.num_moe_experts == 0 ? 1 : c.expert_tensor_parallel_size ? c.expert_tensor_parallel_size : out.tensor;
  if (pipeline_before_data) out.order = "tp-cp-ep-pp-dp";
  const int64_t replica = out.tensor * out.context * out.pipeline;
  require(replica > 0 && world_size % replica == 0, "{} ranks do not divide into replicas of tensor {} x context {} x pipeline {} = {} ranks", world_size,
          out.tensor, out.context, out.pipeline, replica);
  out.data = world_size / replica;
  return out;
}

std::vector<Mesh::Axis> Mesh::axes(const std::string& order, int64_t tensor, int64_t context, int64_t expert, int64_t data, int64_t pipeline) {
  const std::vector<Axis> known = {{"tp", tensor}, {"cp", context}, {"ep", expert}, {"dp", data}, {"pp", pipeline}};
  std::vector<Axis> out;
  for (size_t at = 0; at <= order.size();) {
    const size_t end = std::min(order.find('-', at), order.size());
    const std::string name = order.substr(at, end - at);
    const auto axis = std::find_if(known.begin(), known.end(), [&](const Axis& a) { return a.name == name; });
    require(axis != known.end(), "mesh order '{}': there is no axis '{}'; axes are tp, cp, ep, dp, pp", order, name);
    require(std::none_of(out.begin(), out.end(), [&](const Axis& a) { return a.name == name; }), "mesh order '{}': '{}' twice", order, name);
    out.push_back(*axis);
    at = end + 1;
  }
  for (const Axis& axis : known)
    if (std::none_of(out.begin(), out.end(), [&](const Axis& a) { return a.name == axis.name; })) {
      require(axis.size == 1, "mesh order '{}': it does not place {}, which has {} ranks", order, axis.name, axis.size);
      out.push_back(axis);
    }
  return out;
}

Mesh::Mesh(const MeshSizes& sizes) : sizes_(sizes) {
  const MeshSizes& s = sizes_;
  for (const auto& [name, size] : std::vector<std::pair<const char*, int64_t>>{
           {"tensor", s.tensor}, {"context", s.context}, {"data", s.data}, {"pipeline", s.pipeline}, {"expert", s.expert}, {"expert tensor", s.expert_tensor}})
    require(size > 0, "mesh: {} ranks on the {} axis, wanted at least 1", size, name);
  const int64_t stage = s.tensor * s.context * s.data, experts = s.expert_tensor * s.expert;
  require(stage % experts == 0, "mesh: expert tensor {} x expert {} = {} ranks do not divide the {} ranks of a pipeline stage", s.expert_tensor, s.expert,
          experts, stage);
  require(s.context_inner > 0 && s.context % s.context_inner == 0, "mesh: runs of {} do not divide the {} ranks of the context axis", s.context_inner,
          s.context);
  size_ = stage * s.pipeline;
  expert_data_ = stage / experts;
  dense_ = axes(s.order, s.tensor, s.context, 1, s.data, s.pipeline);
  sparse_ = axes(s.order, s.expert_tensor, 1, s.expert, expert_data_, s.pipeline);
  for (const auto& [name, ranks] : std::vector<std::pair<const char*, int64_t>>{{"data x context", s.data * s.context}, {"expert data", expert_data_}})
    require(s.optimizer_instances > 0 && ranks % s.optimizer_instances == 0,
            "mesh: {} optimizer instances (ddp.num_distributed_optimizer_instances) do not divide the {} {} ranks", s.optimizer_instances, ranks, name);
  require(groups(GroupKind::pipeline) == [&] {
    Mesh swapped = *this;
    swapped.dense_ = sparse_;
    return swapped.groups(GroupKind::pipeline);
  }(), "mesh order '{}': pipelines of experts and of the rest would not be the same ranks; put pp last", s.order);
}

const std::vector<Mesh::Axis>& Mesh::axes_of(GroupKind kind) const { return facts(kind).sparse ? sparse_ : dense_; }

Coordinates Mesh::coordinates(int64_t rank) const {
  PONTE_ASSERT(rank >= 0 && rank < size_);
  const auto along = [&](const std::vector<Axis>& axes, std::string_view name) {
    int64_t rest = rank;
    for (const Axis& axis : axes) {
      if (axis.name == name) return rest % axis.size;
      rest /= axis.size;
    }
    return int64_t{0};
  };
  return {along(dense_, "tp"), along(dense_, "cp"), along(dense_, "dp"), along(dense_, "pp"), along(sparse_, "ep"), along(sparse_, "tp"), along(sparse_, "dp")};
}

namespace {

// Groups cut into `count` stretches of neighbours, or into those in the same place of each stretch (megatron/core/parallel_state.py,
// num_distributed_optimizer_instances and hierarchical_context_parallel_sizes).
std::vector<std::vector<int64_t>> cut(const std::vector<std::vector<int64_t>>& groups, int64_t count, bool same_place) {
  std::vector<std::vector<int64_t>> out;
  for (const std::vector<int64_t>& ranks : groups) {
    const int64_t length = static_cast<int64_t>(ranks.size()) / count, parts = same_place ? length : count, members = same_place ? count : length;
    for (int64_t p = 0; p < parts; ++p) {
      std::vector<int64_t>& part = out.emplace_back();
      for (int64_t m = 0; m < members; ++m) part.push_back(ranks[static_cast<size_t>(same_place ? m * length + p : p * length + m)]);
    }
  }
  return out;
}

}  // namespace

std::vector<std::vector<int64_t>> Mesh::groups(GroupKind kind) const {
  if (kind == GroupKind::context_inner || kind == GroupKind::context_outer)
    return cut(groups(GroupKind::context), sizes_.context / sizes_.context_inner, kind == GroupKind::context_outer);
  if (kind == GroupKind::data_context_shares || kind == GroupKind::data_context_copies)
    return cut(groups(GroupKind::data_context), sizes_.optimizer_instances, kind == GroupKind::data_context_copies);
  if (kind == GroupKind::expert_data_shares || kind == GroupKind::expert_data_copies)
    return cut(groups(GroupKind::expert_data), sizes_.optimizer_instances, kind == GroupKind::expert_data_copies);
  // Offsets of the ranks inside a group, and of the groups' first ranks: the first axis turns fastest in both.
  std::vector<int64_t> inside = {0}, first = {0};
  int64_t stride = 1;
  for (const Axis& axis : axes_of(kind)) {
    std::vector<int64_t>& list = contains(facts(kind).axes, axis.name) ? inside : first;
    std::vector<int64_t> longer;
    for (int64_t i = 0; i < axis.size; ++i)
      for (const int64_t offset : list) longer.push_back(offset + i * stride);
    list = std::move(longer);
    stride *= axis.size;
  }
  if (kind == GroupKind::embedding && inside.size() > 1) inside = {inside.front(), inside.back()};
  std::vector<std::vector<int64_t>> out;
  for (const int64_t f : first) {
    std::vector<int64_t>& ranks = out.emplace_back();
    for (const int64_t i : inside) ranks.push_back(f + i);
  }
  return out;
}

std::vector<int64_t> Mesh::group(GroupKind kind, int64_t rank) const {
  PONTE_ASSERT(rank >= 0 && rank < size_);
  for (std::vector<int64_t>& ranks : groups(kind))
    if (std::find(ranks.begin(), ranks.end(), rank) != ranks.end()) return ranks;
  return {rank};
}

}  // namespace ponte
