// The mesh: which ranks work together on what. Sizes of the parallel axes and the order in which they are laid over ranks give every rank its coordinates
// and every group its ranks, as Megatron's RankGenerator does (megatron/core/parallel_state.py). Experts have a mesh of their own over the same ranks:
// expert_tensor x expert x expert_data of a pipeline stage are its tensor x context x data, cut differently.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "config/model_config.h"

namespace ponte {

struct MeshSizes {
  int64_t tensor = 1, context = 1, data = 1, pipeline = 1;
  int64_t expert = 1, expert_tensor = 1;
  int64_t optimizer_instances = 1;  // groups of replicas that each hold a whole optimizer state (num_distributed_optimizer_instances)
  int64_t context_inner = 1;  // of the context axis: neighbours that are its lower level (hierarchical context parallelism)
  // Axes from the one whose ranks are neighbours to the one whose ranks are farthest apart.
  std::string order = "tp-cp-ep-dp-pp";
};
// The sizes a configuration asks for over `world_size` ranks. UserError when they do not divide.
MeshSizes mesh_sizes(const ModelConfig& config, int64_t world_size, bool pipeline_before_data = false);

// A kind of group. Beside it: Megatron's token and generator.
enum class GroupKind {
  tensor,               // tp
  context,              // cp
  context_inner,        // runs of neighbours on cp (Megatron's first hierarchical level)
  context_outer,        // on cp, those with the same place in their run (the second)
  data,                 // dp: replicas that see other samples
  data_context,         // dp-cp: who sums gradients of dense parameters
  tensor_context,       // tp-cp: who shares a micro-batch
  pipeline,             // pp, from the first stage to the last
  embedding,            // first and last stage of a pipeline: who holds the word embeddings
  model,                // tp-pp
  expert,               // ep, expert generator
  expert_tensor,        // tp, expert generator
  expert_tensor_expert, // tp-ep, expert generator: who holds one copy of a layer's experts
  expert_data,          // dp, expert generator: who sums gradients of experts
  data_context_shares,  // neighbours among dp-cp: who divides optimizer state, gradients and parameters of dense parameters
  data_context_copies,  // who holds the same share of dense parameters
  expert_data_shares,   // the same for experts
  expert_data_copies,
  world,
};
inline constexpr int64_t kGroupKinds = static_cast<int64_t>(GroupKind::world) + 1;
const char* name_of(GroupKind kind);

struct Coordinates {
  int64_t tensor = 0, context = 0, data = 0, pipeline = 0;
  int64_t expert = 0, expert_tensor = 0, expert_data = 0;
};

class Mesh {
 public:
  // UserError when a size is not positive, the order leaves an axis out, or the experts' axes do not fit the ranks.
  explicit Mesh(const MeshSizes& sizes = {});

  const MeshSizes& sizes() const { return sizes_; }
  int64_t size() const { return size_; }
  int64_t expert_data_size() const { return expert_data_; }
  Coordinates coordinates(int64_t rank) const;
  // All groups of a kind, in Megatron's order; ranks in the order of their coordinates. Ranks of no group (embedding, middle stages) are in none.
  std::vector<std::vector<int64_t>> groups(GroupKind kind) const;
  // The ranks of this rank's group; only itself when it is in none.
  std::vector<int64_t> group(GroupKind kind, int64_t rank) const;

 private:
  struct Axis {
    std::string name;
    int64_t size;
  };
  static std::vector<Axis> axes(const std::string& order, int64_t tensor, int64_t context, int64_t expert, int64_t data, int64_t pipeline);
  const std::vector<Axis>& axes_of(GroupKind kind) const;

  MeshSizes sizes_;
  int64_t size_ = 1, expert_data_ = 1;
  std::vector<Axis> dense_, sparse_;  // from the fastest axis to the slowest
};

}  // namespace ponte
