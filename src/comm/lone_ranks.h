// One rank of a run whose other ranks are not there: collectives end at once with a result of the right shape. To tensors of the meta device there is
// nothing else; of host tensors (counts, places) every other rank is taken to bring what this one brings, and messages received are zeros.
#pragma once
#include <memory>

#include "comm/ranks.h"

namespace ponte {

std::shared_ptr<Ranks> lone_rank(int64_t rank, int64_t size);

}  // namespace ponte
