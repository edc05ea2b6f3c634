// Placement: what one tensor-parallel rank holds of a live parameter. Each segment is cut on its own shard dim and the pieces are then
// concatenated on dim 0 (so a rank's fc1 is [its gate rows; its up rows]), and from the cut follows how the gradient is summed over ranks.
#pragma once
#include <cstdint>
#include <optional>
#include <vector>

#include "families/rule.h"

namespace ponte {

struct TensorParallel {
  int64_t rank = 0, size = 1;
  bool sequence_parallel = false;
};

// Rows [begin, end) of a segment along its shard dim. `sharers` consecutive ranks from `first_sharer` hold these very rows (1: this rank alone, or
// every rank when the segment is replicated); their gradients are summed over that subgroup.
struct Interval {
  int64_t begin, end;
  int64_t first_sharer, sharers;
};

struct SegmentSlice {
  std::vector<Interval> intervals;  // concatenated along the shard dim; one whole interval of dim 0 when the segment is replicated
  int64_t padding = 0;              // zero rows after them (vocabulary)
  Shape shape;                      // local, padding included
  int64_t offset = 0;               // first row of this segment in the local parameter (dim 0)
};

enum class GradientReduction {
  none,                 // each rank owns its rows, or all ranks compute the same
  sum_tensor_parallel,  // partial sums over the whole tensor-parallel group
  sum_sharers,          // rows of intervals with sharers > 1: summed over those ranks
};

// Rows [begin, end) of a tensor's dim 0.
struct Rows {
  int64_t begin = 0, end = 0;
  int64_t count() const { return end - begin; }
  bool operator==(const Rows&) const = default;
};

struct Slice {
  Shape shape;                          // local
  std::vector<SegmentSlice> segments;   // as Rule::segments
  int64_t rank = 0;                     // of whose slice this is: it saves the intervals whose first_sharer it is
  GradientReduction gradient = GradientReduction::none;
  std::optional<Rows> rows;             // of what `segments` give, only these (one replica's share of the optimizer state); `shape` is theirs
};

// UserError when the parameter does not divide: it names the parameter, the units found and the ranks asked for.
Slice slice_of(const Rule& rule, const TensorParallel& tensor_parallel);
// Segments are joined on dim 0: another one after those that the slice has.
void append_segment(Slice& slice, SegmentSlice cut);
// The part of a whole slice that lies in these local rows.
Slice rows_of(Slice slice, Rows rows);
// The local rows this rank answers for when ranks add up what each of them holds: all but those that another rank, a first sharer, holds too.
std::vector<Rows> own_rows(const Rule& rule, const Slice& slice);

}  // namespace ponte
