// The product of small fp32 tiles that attention and the gated delta rule are built on: the library's micro-kernel where there is one.
#pragma once
#include "kernels/vector.h"

namespace ponte {

TileProduct best_tile_product();

}  // namespace ponte
