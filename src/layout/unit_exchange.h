// What replicas that divide gradients or parameters exchange inside the passes of a step, unit by unit: the order in which a rank's schedule uses units decides
// which values have to come again (nn/unit.h, parallel/data_parallel.h).
#pragma once
#include <vector>

#include "layout/pipeline_schedule.h"
#include "layout/plan_layers.h"
#include "layout/volume.h"

namespace ponte {

// The units of one chunk of layers on one rank.
struct ChunkUnits {
  std::vector<WeightCount> layers, prediction;
  WeightCount embedding, head;  // word embeddings; final norm and an output layer of its own
  bool has_embedding = false, has_head = false, tied = false;
  std::vector<int64_t> recomputed_stretches;
};

// Times the values of each unit come during a step, in the order embedding, layers, prediction layers, head; by chunk. `ahead`: the next unit's come early.
std::vector<std::vector<int64_t>> value_gathers(const std::vector<ChunkUnits>& chunks, const PipelineSizes& sizes, int64_t rank, bool ahead);

// Of a step's passes: nothing unless gradients are divided.
Volume unit_volume(const std::vector<ChunkUnits>& chunks, const PipelineSizes& sizes, int64_t rank, const Config& config, const ReplicaSizes& replicas);

// Bytes of the largest unit's values and of its gradients; of gradients of tied word embeddings, which are there beside any other's.
struct UnitBytes {
  int64_t values = 0, gradients = 0, tied_gradients = 0;
};
UnitBytes largest_unit(const std::vector<ChunkUnits>& chunks, int64_t element);

}  // namespace ponte
