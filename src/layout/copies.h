// Strided copies and their arithmetic: what remains of a box inside a window of its segment, and of a copy inside a stretch of its target. Every use of
// the rule table (file to file, file to a rank's shard, shard to file) is a list of these.
#pragma once
#include <functional>
#include <span>
#include <vector>

#include "families/rule.h"
#include "layout/placement.h"

namespace ponte {

// A rectangle [begin, end) of a segment and where it lies in a linear buffer: the element at coordinate c is at origin + sum((c[d] - begin[d]) x strides[d]).
struct Window {
  Shape begin, end, strides;
  int64_t origin = 0;

  int64_t elements() const;
};
// The window [begin, end) stored row-major and alone, its first element at `origin`.
Window dense_window(Shape begin, Shape end, int64_t origin = 0);
// What two windows share, placed as in `first`.
bool intersect(const Window& first, const Window& second, Window& out);

// Elements of one linear buffer and their places in another. Axes nest in both buffers; `to` is walked in ascending order.
struct CopyAxis {
  int64_t extent, from, to;  // strides in elements
};
struct Copy {
  int64_t source = 0;  // which buffer is read: its meaning is the plan's
  int64_t from = 0, to = 0;
  std::vector<CopyAxis> axes;

  int64_t elements() const;
};

// The intervals of a rank's slice as windows of segment `segment`, placed in the rank's local parameter (row-major, slice.shape).
std::vector<Window> slice_windows(const Rule& rule, const Slice& slice, size_t segment);

// The copies that fill what of `window` the box feeds: from the box's HF tensor into the window's buffer. source = box.source.
void append_copies(const Box& box, const Window& window, std::vector<Copy>& out);
// Between two windows of one segment: from `from`'s buffer into `to`'s.
void append_copies(const Window& from, const Window& to, int64_t source, std::vector<Copy>& out);
// The same copy in the other direction, axes ordered for its new target.
Copy reversed(const Copy& copy, int64_t source);
// The parts of `copy` whose targets lie in [begin, end) of the target buffer, their targets counted from `begin`.
void append_within(const Copy& copy, int64_t begin, int64_t end, std::vector<Copy>& out);
// Joins axes that are contiguous in both buffers.
void coalesce(Copy& copy);

}  // namespace ponte
