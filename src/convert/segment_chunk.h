// A stretch of a segment in some buffer: what reading plans are made of.
#pragma once
#include <functional>

#include "format/torch_dist.h"
#include "layout/copies.h"

namespace ponte {

// A stored chunk holding part of a segment: `window` places its elements in the buffer of this number.
struct SegmentChunk {
  int64_t buffer;
  Window window;
};

// Gives a chunk a number among some buffers.
using OpenChunk = std::function<int64_t(const TorchDistTensor& tensor, const TorchDistChunk& chunk)>;

}  // namespace ponte
