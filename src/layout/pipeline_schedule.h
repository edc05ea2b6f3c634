// Pipeline schedules as data: what each rank computes, in order. 1F1B (Narayanan et al. 2019, PipeDream-flush) and its interleaved form with several
// chunks of layers per rank (Narayanan et al. 2021, section 2.2), in the order of megatron/core/pipeline_parallel/schedules.py.
#pragma once
#include <cstdint>
#include <vector>

namespace ponte {

enum class Pass { forward, backward };

struct PipelineAction {
  Pass pass;
  int64_t micro_batch, chunk;
  bool operator==(const PipelineAction&) const = default;
};

struct PipelineSizes {
  int64_t ranks = 1, chunks = 1, micro_batches = 1;
};

// UserError for sizes that cannot be scheduled (chunks over one rank).
std::vector<PipelineAction> pipeline_schedule(const PipelineSizes& sizes, int64_t rank);
// Forward passes alone, for evaluation.
std::vector<PipelineAction> pipeline_forward_schedule(const PipelineSizes& sizes, int64_t rank);

// A result that leaves a rank: an activation after a forward pass, a gradient after a backward pass. The stage it goes to is one step along or back.
struct PipelineMessage {
  Pass pass;
  int64_t micro_batch;
  int64_t chunk;     // of the receiver
  int64_t peer;      // rank at the other end
  bool operator==(const PipelineMessage&) const = default;
};
// What `action` needs from another stage, or gives to one; false when it is the first or last stage's own business.
bool message_into(const PipelineSizes& sizes, int64_t rank, const PipelineAction& action, PipelineMessage& out);
bool message_out_of(const PipelineSizes& sizes, int64_t rank, const PipelineAction& action, PipelineMessage& out);

// All ranks together, a forward pass taking `forward` and a backward pass `backward` units of time, messages none.
struct PipelineSimulation {
  bool finished = false;         // every action ran: nobody waits for ever
  double time = 0;               // of the whole step
  double bubble = 0;             // idle share of it: 1 - work / (ranks x time)
  std::vector<int64_t> held;     // per rank: most forward passes whose backward had not run yet
};
PipelineSimulation simulate(const PipelineSizes& sizes, double forward = 1, double backward = 2);

}  // namespace ponte
