#include "layout/placement.h"

#include "base/errors.h"

namespace ponte {
namespace {

// More ranks than units: each unit belongs to `sharers` consecutive ranks, which split its divisible parts and all hold the rest.
std::vector<Interval> share_units(const Rule& rule, const Segment& segment, const TensorParallel& tp, int64_t units) {
  require(tp.size % units == 0 && !segment.parts.empty(), "{}: {} units do not divide over {} tensor-parallel ranks", rule.name(), units, tp.size);
  const int64_t sharers = tp.size / units, unit = tp.rank / sharers, turn = tp.rank % sharers;
  std::vector<Interval> out;
  int64_t row = unit * segment.unit;
  for (const UnitPart& part : segment.parts) {
    if (part.unit == 0) {
      out.push_back({row, row + part.rows, unit * sharers, sharers});
    } else {
      const int64_t pieces = part.rows / part.unit;
      require(pieces % sharers == 0, "{}: the {} heads of a query group do not divide over the {} tensor-parallel ranks that share it", rule.name(), pieces,
              sharers);
      const int64_t rows = part.rows / sharers;
      out.push_back({row + turn * rows, row + (turn + 1) * rows, tp.rank, 1});
    }
    row += part.rows;
  }
  return out;
}

SegmentSlice slice_segment(const Rule& rule, const Segment& segment, const TensorParallel& tp) {
  SegmentSlice out;
  out.shape = segment.shape;
  if (segment.shard_dim == kReplicated) {
    out.intervals = {{0, segment.shape[0], 0, tp.size}};
    return out;
  }
  const int64_t extent = segment.shape[segment.shard_dim], units = extent / segment.unit;
  if (units % tp.size == 0) {
    const int64_t rows = extent / tp.size;
    out.intervals = {{tp.rank * rows, (tp.rank + 1) * rows, tp.rank, 1}};
  } else if (segment.padded) {
    const int64_t rows = (extent + tp.size - 1) / tp.size;
    const int64_t begin = std::min(tp.rank * rows, extent), end = std::min(begin + rows, extent);
    out.intervals = {{begin, end, tp.rank, 1}};
    out.padding = rows - (end - begin);
  } else {
    out.intervals = share_units(rule, segment, tp, units);
  }
  int64_t local = out.padding;
  for (const Interval& interval : out.intervals) local += interval.end - interval.begin;
  out.shape[segment.shard_dim] = local;
  return out;
}

GradientReduction reduction(const Rule& rule, const Slice& slice, const TensorParallel& tp) {
  if (tp.size == 1) return GradientReduction::none;
  if (rule.segments[0].shard_dim == kReplicated) {
    const bool partial = rule.replicated_gradient == ReplicatedGradient::by_heads || tp.sequence_parallel;
    return partial ? GradientReduction::sum_tensor_parallel : GradientReduction::none;
  }
  for (const SegmentSlice& segment : slice.segments)
    for (const Interval& interval : segment.intervals)
      if (interval.sharers > 1) return GradientReduction::sum_sharers;
  return GradientReduction::none;
}

}  // namespace

void append_segment(Slice& slice, SegmentSlice cut) {
  if (slice.segments.empty()) {
    slice.shape = cut.shape;
  } else {
    cut.offset = slice.shape[0];
    slice.shape[0] += cut.shape[0];
  }
  slice.segments.push_back(std::move(cut));
}

Slice slice_of(const Rule& rule, const TensorParallel& tp) {
  PONTE_ASSERT(tp.size >= 1 && tp.rank >= 0 && tp.rank < tp.size);
  Slice slice;
  slice.rank = tp.rank;
  for (const Segment& segment : rule.segments) {
    SegmentSlice cut = slice_segment(rule, segment, tp);
    PONTE_ASSERT(rule.segments.size() == 1 || segment.shard_dim <= 0);  // segments are joined on dim 0
    append_segment(slice, std::move(cut));
  }
  slice.gradient = reduction(rule, slice, tp);
  return slice;
}

Slice rows_of(Slice slice, Rows rows) {
  PONTE_ASSERT(!slice.rows && rows.begin >= 0 && rows.begin <= rows.end && rows.end <= slice.shape[0]);
  slice.rows = rows;
  slice.shape[0] = rows.count();
  return slice;
}

std::vector<Rows> own_rows(const Rule& rule, const Slice& slice) {
  std::vector<Rows> out;
  const auto add = [&](int64_t begin, int64_t end) {
    if (begin == end) return;
    if (!out.empty() && out.back().end == begin) out.back().end = end;
    else out.push_back({begin, end});
  };
  for (size_t s = 0; s < slice.segments.size(); ++s) {
    const SegmentSlice& segment = slice.segments[s];
    if (rule.segments[s].shard_dim > 0) {  // its intervals cut columns; nobody shares those
      add(segment.offset, segment.offset + segment.shape[0]);
      continue;
    }
    int64_t row = segment.offset;
    for (const Interval& interval : segment.intervals) {
      const int64_t rows = interval.end - interval.begin;
      if (interval.first_sharer == slice.rank) add(row, row + rows);
      row += rows;
    }
  }
  return out;
}

}  // namespace ponte
