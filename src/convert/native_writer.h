// A torch_dist iteration being written from a SegmentSource: one chunk per segment, as one Megatron rank would save it.
#pragma once
#include "convert/manifest.h"
#include "convert/segment_source.h"

namespace ponte {

// The type a parameter gets: the one asked for, unless its precision is a contract.
DType stored_dtype(const Rule& rule, DType source, std::optional<DType> asked);
// Whether adding `add` to the values of `target` in its type and taking it off again in `original` gives the values back, element by element.
bool inverts(std::span<const SourceBuffer> sources, const Target& target, DType original);

// Data files, .metadata, common.pt and metadata.json into `directory`. Returns tensors and casts of the manifest.
Manifest write_native_weights(const SegmentSource& source, const fs::path& directory, std::optional<DType> asked, int64_t threads);

// Objects torch_dist wants for each Transformer Engine module: a list of one empty byte tensor, as bf16 runs store it.
Value empty_extra_state();
// common.pt of a checkpoint without training state; `args` are the arguments Megatron-LM looks for.
Value common_state_of_import(const ModelConfig& config);
// train_state.pt of Megatron Bridge at iteration 0.
Value train_state_of_import();

}  // namespace ponte
