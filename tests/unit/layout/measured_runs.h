// Models, meshes and configurations of the tests that hold plans against runs.
#pragma once
#include <functional>
#include <vector>

#include "comm/group.h"
#include "config/config.h"
#include "layout/mesh.h"
#include "layout/plan.h"
#include "model/model.h"
#include "models.h"

namespace ponte::testing {

inline ModelConfig dense() {
  ModelConfig c =
      models::qwen3({.layers = 6, .hidden = 128, .ffn = 352, .heads = 8, .groups = 2, .head_dim = 32, .vocabulary = 300, .positions = 256});
  c.seq_length = 256;
  return c;
}

inline ModelConfig sparse() { return models::with_experts(dense(), {.count = 16, .chosen = 4, .ffn = 96, .balancing = 1e-3}); }

// Gated delta nets, gated attention, a shared expert with its gate.
inline ModelConfig hybrid() {
  return models::with_linear_attention(models::with_shared_expert(sparse(), 64),
                                       {.key_heads = 4, .value_heads = 8, .key_dim = 16, .value_dim = 24, .frequency = 3});
}

inline ModelConfig with(ModelConfig c, const std::function<void(ModelConfig&)>& change) {
  change(c);
  return c;
}

inline void full(ModelConfig& c, const char* method, int64_t layers) {
  c.recompute_granularity = "full";
  c.recompute_method = method;
  c.recompute_num_layers = layers;
}

inline Config run_of(ModelConfig model, const MeshSizes& mesh, int64_t chunks, at::ScalarType type) {
  Config c;
  model.tensor_model_parallel_size = mesh.tensor;
  model.pipeline_model_parallel_size = mesh.pipeline;
  model.virtual_pipeline_model_parallel_size = chunks > 1 ? chunks : 0;
  model.context_parallel_size = mesh.context;
  model.expert_model_parallel_size = mesh.expert;
  model.expert_tensor_parallel_size = model.num_moe_experts ? mesh.expert_tensor : 0;
  model.moe_router_force_load_balancing = model.num_moe_experts > 0;
  c.model = model;
  if (type == at::kBFloat16) c.model.bf16 = true, c.model.params_dtype = DType::bf16;
  c.train.micro_batch_size = 2;
  c.train.global_batch_size = 2 * mesh.data * (mesh.pipeline > 1 ? 2 * mesh.pipeline : 1);
  c.optimizer.lr = 1e-3;
  c.train.train_iters = 1;
  const int64_t ranks = mesh.tensor * mesh.context * mesh.data * mesh.pipeline;
  finalize(c, ranks);
  validate(c, ranks);
  return c;
}

struct MeshCase {
  const char* name;
  ModelConfig config;
  MeshSizes mesh;
  int64_t chunks = 1;
  at::ScalarType type = at::kFloat;
};

inline Machine any_machine() {
  Machine out;
  out.gpu = find_accelerator("h100");
  return out;
}

inline Collective collective_of(Movement movement) {
  switch (movement) {
    case Movement::all_reduce: return Collective::all_reduce;
    case Movement::all_gather: return Collective::all_gather;
    case Movement::reduce_scatter: return Collective::reduce_scatter;
    case Movement::all_to_all: return Collective::all_to_all;
    case Movement::transfer: return Collective::transfer;
  }
  return {};
}

inline double counted_bytes(const Group& group, Movement movement) { return static_cast<double>(group.traffic(collective_of(movement)).bytes); }

inline std::vector<Model> chunks_of(const MeshCase& c, const Config& config, const Groups& groups) {
  std::vector<Model> out;
  for (int64_t chunk = 0; chunk < c.chunks; ++chunk) out.emplace_back(config.model, groups, ModelOptions{.dtype = c.type}, chunk);
  return out;
}

}  // namespace ponte::testing
