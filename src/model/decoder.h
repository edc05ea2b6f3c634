// The stack of layers and how it is run: plainly, or with full recompute over stretches of layers (the block-runner seam). A pipeline stage is a decoder
// over a sub-range of layers.
#pragma once
#include <vector>

#include "model/block.h"
#include "nn/unit.h"

namespace ponte {

struct Decoder {
  std::vector<DecoderLayer> layers;
  std::vector<const Unit*> units;  // of each layer
  // Lengths of the stretches of layers that are run with recompute, from the first layer on; the rest runs plainly.
  std::vector<int64_t> recomputed_stretches;

  at::Tensor operator()(const at::Tensor& x_SH, const Sequence& sequence) const;
};

}  // namespace ponte
