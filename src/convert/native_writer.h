// A Megatron iteration being written from SegmentSources, torch_dist or fsdp_dtensor: one chunk per segment, as one Megatron rank would save it.
#pragma once
#include "convert/manifest.h"
#include "convert/segment_source.h"

namespace ponte {

// The type a parameter gets: the one asked for, unless its precision is a contract.
DType stored_dtype(const Rule& rule, DType source, std::optional<DType> asked);
// Whether adding `add` to the values of `target` in its type and taking it off again in `original` gives the values back, element by element.
bool inverts(std::span<const SourceBuffer> sources, const Target& target, DType original);

// One set of model-shaped tensors: the weights (kind ""), or a kind of optimizer state ("param", "exp_avg", "exp_avg_sq").
struct NativeContent {
  const SegmentSource& source;
  std::string kind;
  std::optional<DType> asked;
};
// What lies beside them: small tensors (their bytes in `bytes`) and objects.
struct NativeTensor {
  TensorSpec spec;
  std::string bytes;
};
struct NativeExtras {
  std::vector<NativeTensor> tensors;
  std::vector<std::pair<std::string, Value>> objects;
};

struct NativeWriteOptions {
  Dialect dialect;
  int64_t threads = 0;
  std::string label;  // of the progress bar
};
// Data files and .metadata into `directory`; of torch_dist with every `_extra_state` object. Returns tensors and casts of the manifest.
Manifest write_native_tensors(std::span<const NativeContent> contents, const NativeExtras& extras, const fs::path& directory,
                              const NativeWriteOptions& options);

// Objects torch_dist wants for each Transformer Engine module: a list of one empty byte tensor, as bf16 runs store it.
Value empty_extra_state();
// common.pt of a checkpoint without training state; `args` are the arguments Megatron-LM looks for.
Value common_state_of_import(const ModelConfig& config);
// train_state.pt of Megatron Bridge at iteration 0.
Value train_state_of_import();

}  // namespace ponte
