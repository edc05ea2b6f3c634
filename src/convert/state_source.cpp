// Optimizer state of a Megatron checkpoint as the file-to-file paths read it: shaped like the model, or cut from flat buckets.
#include <algorithm>

#include "base/errors.h"
#include "convert/segment_source.h"

namespace ponte {

StateSource::StateSource(const NativeSource& native, std::string_view kind) {
  config_ = native.config();
  table_ = native.rules();
  index_rules();
  const std::string prefix = format("optimizer.state.{}.", kind);
  std::map<const TorchDistChunk*, int64_t> numbers;  // layers are stacked: many parameters share a chunk
  const OpenChunk open = [&](const TorchDistTensor& tensor, const TorchDistChunk& chunk) {
    const auto [it, fresh] = numbers.emplace(&chunk, static_cast<int64_t>(buffers_.size()));
    if (fresh) buffers_.push_back(native.open_chunk(tensor, chunk, opened_));
    return it->second;
  };
  for (const Rule& rule : table_.rules) {
    std::vector<std::vector<SegmentChunk>> segments;
    for (size_t s = 0; s < rule.segments.size(); ++s) segments.push_back(native.bind_state(prefix, rule, s, open));
    rule_dtypes_.push_back(buffers_[static_cast<size_t>(segments.at(0).at(0).buffer)].dtype);
    chunks_.push_back(std::move(segments));
  }
}

void StateSource::append_feeds(size_t rule, size_t segment, const Window& to, std::vector<Copy>& out) const {
  for (const SegmentChunk& chunk : chunks_[rule][segment]) append_copies(chunk.window, to, chunk.buffer, out);
}

}  // namespace ponte
