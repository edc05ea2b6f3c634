// What a rank hands to the collectives of a step, by group and kind, in the counting of comm/group.h: all_reduce the tensor; all_gather and
// reduce_scatter the larger side; all_to_all the rows for others; transfer the tensors sent. Sums over the rule table and the widths of local layers; the calls
// are those of comm/region.h, nn/token_dispatcher.h, nn/loss_head.h and parallel/data_parallel.h.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "config/config.h"
#include "layout/memory_activations.h"
#include "layout/mesh.h"
#include "layout/pipeline_stages.h"

namespace ponte {

enum class Movement { all_reduce, all_gather, reduce_scatter, all_to_all, transfer };
std::string_view name_of(Movement movement);

struct VolumeEntry {
  GroupKind group;
  Movement movement;
  double bytes = 0;
  // True: once a step, at its end. False: inside the passes of its micro-batches.
  bool at_end = false;
};
// Entries of the same kind added up.
struct Volume {
  std::vector<VolumeEntry> entries;
  void add(GroupKind group, Movement movement, double bytes, bool at_end = false);
  void add(const Volume& other, double times = 1);
  double bytes(GroupKind group, Movement movement) const;
};

// Forward and backward of one layer for one micro-batch. recompute: what is computed again in backward is sent again.
struct LayerVolume {
  Volume forward, backward;
};
struct VolumeSizes {
  MeshSizes mesh;
  ActivationSizes activations;
  std::string context_type = "p2p";  // cp_comm_type
  bool all_gather_tokens = false;  // moe_token_dispatcher_type=allgather
};
LayerVolume layer_volume(const LocalLayer& layer, const VolumeSizes& sizes, const Recompute& recompute);
LayerVolume embedding_volume(int64_t hidden, const VolumeSizes& sizes);
// What a prediction layer does before its decoder layer: words looked up, and the projection of two residual streams side by side.
LayerVolume prediction_volume(int64_t hidden, const VolumeSizes& sizes);
LayerVolume head_volume(int64_t hidden, const VolumeSizes& sizes);
// An activation to the next stage, its gradient back.
double message_bytes(int64_t hidden, const ActivationSizes& sizes);

// Ranks that divide what replicas hold in common, and how many groups of them hold copies; 1: nothing is divided.
struct ReplicaSizes {
  int64_t dense = 1, expert = 1, copies = 1;
  // Who divides: all replicas where there are no copies.
  GroupKind dense_group() const { return copies == 1 ? GroupKind::data_context : GroupKind::data_context_shares; }
  GroupKind expert_group() const { return copies == 1 ? GroupKind::expert_data : GroupKind::expert_data_shares; }
};
ReplicaSizes replica_sizes(const Config& config, const MeshSizes& mesh, int64_t expert_data);
// Sums of gradients of parameters of `element` bytes.
void add_reduction(Volume& out, GroupKind group, double elements, int64_t ranks, int64_t element, const Config& config, bool at_end);
// Once a step: gradients of replicated parameters over tensor ranks, gradients and updated parameters over replicas. What units exchange inside the passes:
// layout/unit_exchange.h.
Volume step_volume(const WeightCount& weights, const Config& config, const MeshSizes& mesh, int64_t expert_data, int64_t element);

// Bytes that pass this rank's link, in the larger direction, by the usual ring and pairwise algorithms: all_reduce 2 (n - 1) / n of the tensor, all_gather and
// reduce_scatter (n - 1) / n, the others what is sent.
double wire_bytes(Movement movement, double bytes, int64_t ranks);

}  // namespace ponte
