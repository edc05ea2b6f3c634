// How replicas divide parameters among themselves: who keeps the optimizer state of which rows, sums their gradients and writes them to checkpoints.
// Cuts lie between rows, so that a share of a tensor is a box of it and every layout reads what any other wrote.
#pragma once
#include <span>
#include <vector>

#include "layout/placement.h"

namespace ponte {

struct Extent {
  int64_t rows, row_elements;
};

// Lays the tensors end to end and cuts that line into `parts` stretches as equal as whole rows allow; [part][tensor]. Each row is in one part.
std::vector<std::vector<Rows>> share_rows(std::span<const Extent> tensors, int64_t parts);
// What two sets of rows have in common.
std::vector<Rows> intersection(std::span<const Rows> some, Rows others);

}  // namespace ponte
