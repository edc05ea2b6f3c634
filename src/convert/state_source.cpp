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
  const auto add = [&](std::string name, DType dtype, ChunkBytes bytes) {
    opened_.push_back(std::move(bytes));
    buffers_.push_back({std::move(name), dtype, opened_.back().bytes});
    return static_cast<int64_t>(buffers_.size()) - 1;
  };
  std::map<const TorchDistChunk*, int64_t> numbers;  // layers are stacked: many parameters share a chunk
  const OpenChunk open = [&](const TorchDistTensor& tensor, const TorchDistChunk& chunk) {
    const auto [it, fresh] = numbers.emplace(&chunk, 0);
    if (fresh) it->second = add(tensor.name, tensor.dtype, native.reader().bytes(tensor, chunk));
    return it->second;
  };
  const FlatState* flat = native.flat();
  for (const Rule& rule : table_.rules) {
    if (flat) {
      std::vector<FlatRun> runs;
      for (FlatState::Piece& piece : flat->pieces(kind, rule))
        runs.push_back({add(prefix + rule.name(), DType::f32, std::move(piece.bytes)), piece.first, piece.begin, piece.elements});
      runs_.push_back(std::move(runs));
      rule_dtypes_.push_back(DType::f32);
      continue;
    }
    std::vector<std::vector<SegmentChunk>> segments;
    for (size_t s = 0; s < rule.segments.size(); ++s) segments.push_back(native.bind_state(prefix, rule, s, open));
    rule_dtypes_.push_back(buffers_[static_cast<size_t>(segments.at(0).at(0).buffer)].dtype);
    chunks_.push_back(std::move(segments));
  }
}

void StateSource::append_feeds(size_t rule, size_t segment, const Window& to, std::vector<Copy>& out) const {
  if (runs_.empty()) {
    for (const SegmentChunk& chunk : chunks_[rule][segment]) append_copies(chunk.window, to, chunk.buffer, out);
    return;
  }
  const Rule& whole = table_.rules[rule];
  const Window dense = dense_window(Shape(whole.segments[segment].shape.size(), 0), whole.segments[segment].shape);
  PONTE_ASSERT(to.begin == dense.begin && to.end == dense.end && to.strides == dense.strides && to.origin == 0);
  int64_t start = 0;  // of the segment in its parameter
  for (size_t s = 0; s < segment; ++s) start += dense_window(Shape(whole.segments[s].shape.size(), 0), whole.segments[s].shape).elements();
  for (const FlatRun& run : runs_[rule]) {
    const int64_t begin = std::max(run.begin, start), end = std::min(run.begin + run.elements, start + dense.elements());
    if (begin < end) out.push_back({run.buffer, run.first + begin - run.begin, begin - start, {{end - begin, 1, 1}}});
  }
}

}  // namespace ponte
