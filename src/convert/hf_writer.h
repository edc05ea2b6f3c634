// Hugging Face safetensors from Megatron-shaped pieces, stored or live: the rules' boxes read backwards.
#pragma once
#include <functional>

#include "convert/manifest.h"
#include "convert/segment_source.h"

namespace ponte {

// Where the elements of each parameter are.
struct NativePieces {
  const RuleTable& table;
  std::span<const SourceBuffer> buffers;
  std::function<std::span<const SegmentChunk>(size_t rule, size_t segment)> chunks;
  std::function<DType(size_t rule)> dtype;
  std::function<float(size_t rule)> shift;  // what the elements still need added to be HF's
  // By rule: the buffer that is its HF tensor to the bit, where shifting back what is stored would not be; asked types overrule it.
  std::map<size_t, int64_t> exact = {};
};

struct HfWriteOptions {
  std::optional<DType> asked;  // cast to; nullopt: as stored
  uint64_t max_shard_bytes = 5'000'000'000;
  int64_t threads = 0;
  std::string label = "export";
};

// model*.safetensors and their index into `directory`. Returns tensors and casts of the manifest.
Manifest write_hf_weights(const NativePieces& pieces, const fs::path& directory, const HfWriteOptions& options);

}  // namespace ponte
