#include "parallel/rank_model.h"

#include <ATen/ATen.h>

#include "base/errors.h"
#include "kernels/device.h"

namespace ponte {

RankModel::RankModel(const ModelConfig& config, const Groups& groups, const ModelOptions& options) {
  const int64_t count = groups.pipeline->size() == 1 ? 1 : pipeline_split(config).chunks;
  for (int64_t chunk = 0; chunk < count; ++chunk) {
    chunks_.push_back(std::make_unique<Model>(config, groups, options, chunk));
    pointers_.push_back(chunks_.back().get());
    for (Parameter* p : chunks_.back()->parameters()) parameters_.push_back(p);
  }
}

Model& RankModel::whole() {
  const Stage& stage = chunks_[0]->stage();
  PONTE_ASSERT(chunks_.size() == 1 && stage.embedding && stage.loss);
  return *chunks_[0];
}

void RankModel::initialize(uint64_t seed) {
  for (Model* chunk : pointers_) chunk->initialize(seed);
}
void RankModel::load(const WeightSource& source) {
  for (Model* chunk : pointers_) chunk->load(source);
}
void RankModel::zero_gradients() {
  for (Model* chunk : pointers_) chunk->zero_gradients();
}
void RankModel::update_expert_biases() {
  for (Model* chunk : pointers_) chunk->update_expert_biases();
}

// One row per layer and one per depth, filled by the stage that has it.
void RankModel::reduce_reports() {
  for (Model* chunk : pointers_) chunk->reduce_expert_loads();
  const ModelConfig& c = config();
  const int64_t layers = c.num_moe_experts > 0 ? c.num_layers + c.mtp_num_layers : 0, E = c.num_moe_experts, depths = c.mtp_num_layers;
  if (layers + depths == 0) return;
  at::Tensor table = at::zeros({layers + depths, E + 3}, at::kDouble);
  for (Model* chunk : pointers_) {
    const auto loads = chunk->expert_loads();
    std::vector<int64_t> used;
    std::vector<at::Tensor> counts;
    for (size_t i = 0; i < loads.size(); ++i) {
      if (!loads[i].tokens_E.defined()) continue;
      used.push_back(static_cast<int64_t>(i));
      counts.push_back(loads[i].tokens_E);
      table[used.back()].narrow(0, E, 3).copy_(at::tensor({loads[i].tokens, loads[i].balancing, loads[i].z}, at::kDouble));
    }
    if (!used.empty())  // waits for a device, once for all layers
      table.narrow(1, 0, E).index_copy_(0, at::tensor(used, at::kLong), in_host_memory(at::stack(counts)).to(at::kDouble));
    const auto losses = chunk->prediction_losses();
    for (size_t k = 0; k < losses.size(); ++k)
      table[layers + static_cast<int64_t>(k)].narrow(0, 0, 2).copy_(at::tensor({losses[k].sum, losses[k].tokens}, at::kDouble));
  }
  groups().pipeline->all_reduce(table, ReduceOp::sum);
  loads_.assign(static_cast<size_t>(layers), ExpertLoad());
  for (int64_t i = 0; i < layers; ++i) {
    const at::Tensor row = table[i];
    const auto number = [&](int64_t column) { return row[E + column].item<double>(); };
    if (number(0) > 0) loads_[static_cast<size_t>(i)] = {row.narrow(0, 0, E).clone(), number(0), number(1), number(2)};
  }
  prediction_losses_.clear();
  for (int64_t k = 0; k < depths; ++k) prediction_losses_.push_back({table[layers + k][0].item<double>(), table[layers + k][1].item<double>()});
}

}  // namespace ponte
