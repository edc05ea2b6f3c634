// mcore-bridge's (ms-swift's) storage of models with gated delta nets: the names of Megatron's torch_dist, another order of rows. A delta net's projections lie
// packed by key head in one tensor or two, each query head of gated attention beside its gate, and the net's output norm is centred on one as in HF.
// Source: mcore_bridge bridge/gpt_bridge.py (_set_attn_state, _set_linear_attn_state), model/modules/gated_delta_net.py, model/gpts/qwen3_next*.py.
#pragma once
#include "config/model_config.h"
#include "convert/dialect.h"
#include "format/torch_dist.h"

namespace ponte {

// A segment as another packing stores it. No runs: as Megatron has it, under `leaf`.
struct PackedSegment {
  std::string leaf;
  std::vector<RowRun> runs;
  int64_t rows = 0;  // of the tensor that the runs lie in
};

PackedSegment packed_segment(const Rule& rule, size_t segment, Packing packing);

// The packing a checkpoint says it has, by the names of its tensors and, where those are the same, by its writer's arguments. UserError, with the way out,
// where it does not say, or where it says what cannot be read.
Packing packing_of(const TorchDistReader& reader, const ModelConfig& config, const std::filesystem::path& directory);

}  // namespace ponte
