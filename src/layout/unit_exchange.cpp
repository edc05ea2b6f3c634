#include "layout/unit_exchange.h"

#include <algorithm>

namespace ponte {
namespace {

std::vector<WeightCount> all_units(const ChunkUnits& chunk) {
  std::vector<WeightCount> out = {chunk.embedding};
  out.insert(out.end(), chunk.layers.begin(), chunk.layers.end());
  out.insert(out.end(), chunk.prediction.begin(), chunk.prediction.end());
  out.push_back(chunk.head);
  return out;
}

struct Use {
  int64_t unit, next;  // next: what comes early beside it; -1: nothing
};

// The uses of one chunk's passes, in the order of model/model.cpp and model/decoder.cpp.
struct Uses {
  std::vector<Use> forward, backward;

  explicit Uses(const ChunkUnits& c) {
    const auto layers = static_cast<int64_t>(c.layers.size()), prediction = static_cast<int64_t>(c.prediction.size());
    const int64_t head = 1 + layers + prediction, loss = c.tied ? 0 : head;
    const auto layer = [](int64_t i) { return 1 + i; };
    const auto after = [&](int64_t i) { return i + 1 < layers ? layer(i + 1) : c.has_head ? head : -1; };
    const auto before = [&](int64_t i) { return i > 0 ? layer(i - 1) : -1; };
    if (c.has_embedding) forward.push_back({0, after(-1)});
    for (int64_t i = 0; i < layers; ++i) forward.push_back({layer(i), after(i)});
    if (c.has_head) {
      forward.push_back({head, -1});
      forward.push_back({loss, -1});
      for (int64_t k = 0; k < prediction; ++k)
        for (const Use& use : {Use{0, after(-1)}, Use{1 + layers + k, -1}, Use{loss, -1}}) forward.push_back(use);
      for (int64_t k = prediction; k-- > 0;) backward.push_back({1 + layers + k, -1});
      backward.push_back({head, before(layers)});
    }
    std::vector<std::pair<int64_t, int64_t>> stretches;  // first, count
    int64_t next = 0;
    for (const int64_t count : c.recomputed_stretches) stretches.push_back({next, count}), next += count;
    for (int64_t i = layers; i-- > next;) backward.push_back({layer(i), before(i)});
    std::reverse(stretches.begin(), stretches.end());
    for (const auto& [first, count] : stretches) {
      for (int64_t i = first; i < first + count; ++i) backward.push_back({layer(i), -1});
      for (int64_t i = first + count; i-- > first;) backward.push_back({layer(i), before(i)});
    }
  }
};

int64_t dense_bytes(const WeightCount& w, int64_t element) { return (w.dense + w.base) * element + w.fp32 * 4; }
int64_t expert_bytes(const WeightCount& w, int64_t element) { return w.expert * element; }

}  // namespace

std::vector<std::vector<int64_t>> value_gathers(const std::vector<ChunkUnits>& chunks, const PipelineSizes& sizes, int64_t rank, bool ahead) {
  std::vector<Uses> uses(chunks.begin(), chunks.end());
  std::vector<std::vector<int64_t>> out;
  for (const ChunkUnits& chunk : chunks) out.emplace_back(all_units(chunk).size(), 0);
  using Unit = std::pair<int64_t, int64_t>;  // chunk, unit
  std::vector<Unit> resident;
  for (const PipelineAction& action : pipeline_schedule(sizes, rank)) {
    const auto& list = action.pass == Pass::forward ? uses[static_cast<size_t>(action.chunk)].forward : uses[static_cast<size_t>(action.chunk)].backward;
    for (const Use& use : list) {
      std::vector<Unit> wanted = {{action.chunk, use.unit}};
      if (ahead && use.next >= 0) wanted.push_back({action.chunk, use.next});
      for (const Unit& unit : wanted)
        if (std::find(resident.begin(), resident.end(), unit) == resident.end()) ++out[static_cast<size_t>(unit.first)][static_cast<size_t>(unit.second)];
      resident = std::move(wanted);
    }
  }
  return out;
}

Volume unit_volume(const std::vector<ChunkUnits>& chunks, const PipelineSizes& sizes, int64_t rank, const Config& config, const ReplicaSizes& replicas) {
  Volume out;
  const std::string strategy = sharding_strategy(config);
  if (strategy == "no_shard" || strategy == "optim") return out;
  const int64_t element = dtype_bytes(config.model.params_dtype);
  for (size_t c = 0; c < chunks.size(); ++c)
    for (const WeightCount& w : all_units(chunks[c])) {
      const auto times = [&](int64_t elements) { return static_cast<double>(elements * sizes.micro_batches); };
      if (replicas.dense > 1) add_reduction(out, replicas.dense_group(), times(w.dense), replicas.dense, element, config, false);
      if (replicas.dense > 1) add_reduction(out, replicas.dense_group(), times(w.fp32), replicas.dense, 4, config, false);
      if (replicas.expert > 1) add_reduction(out, replicas.expert_group(), times(w.expert), replicas.expert, element, config, false);
    }
  if (strategy != "optim_grads_params") return out;
  const auto gathers = value_gathers(chunks, sizes, rank, config.ddp.overlap_param_gather);
  for (size_t c = 0; c < chunks.size(); ++c) {
    const std::vector<WeightCount> units = all_units(chunks[c]);
    for (size_t u = 0; u < units.size(); ++u) {
      const auto times = [&](int64_t bytes) { return static_cast<double>(gathers[c][u]) * static_cast<double>(bytes); };
      if (replicas.dense > 1) out.add(replicas.dense_group(), Movement::all_gather, times(dense_bytes(units[u], element)));
      if (replicas.expert > 1) out.add(replicas.expert_group(), Movement::all_gather, times(expert_bytes(units[u], element)));
    }
  }
  return out;
}

UnitBytes largest_unit(const std::vector<ChunkUnits>& chunks, int64_t element) {
  UnitBytes out;
  for (const ChunkUnits& chunk : chunks) {
    const std::vector<WeightCount> units = all_units(chunk);
    for (size_t u = 0; u < units.size(); ++u) {
      const WeightCount& w = units[u];
      const bool is_tied = u == 0 && chunk.tied && chunk.has_head;
      int64_t& gradients = is_tied ? out.tied_gradients : out.gradients;
      gradients = std::max(gradients, 4 * (w.dense + w.fp32 + w.expert));
      out.values = std::max(out.values, dense_bytes(w, element) + expert_bytes(w, element));
    }
  }
  return out;
}

}  // namespace ponte
