#include "layout/copies.h"

#include <algorithm>

#include "base/errors.h"

namespace ponte {
namespace {

// Axes that together move along one linear coordinate (a native dim, or a position in the target buffer), steepest first: a mixed-radix number.
struct Digit {
  size_t axis;
  int64_t extent, step;
};
// Steps [first, first + count) of an axis.
struct Range {
  int64_t first, count;
};

// Calls emit(ranges) for disjoint rectangles of digits that together are the numbers in [begin, end); `at` is the value of the digits fixed so far.
void cut_digits(std::span<const Digit> digits, int64_t at, int64_t begin, int64_t end, std::vector<Range>& ranges, const std::function<void()>& emit) {
  if (digits.empty()) {
    if (at >= begin && at < end) emit();
    return;
  }
  int64_t reach = 1;  // of the digits below the first: their values span [0, reach)
  for (const Digit& d : digits.subspan(1)) reach += (d.extent - 1) * d.step;
  const Digit& head = digits[0];
  Range& range = ranges[head.axis];
  const Range all = range;
  auto ceil_div = [](int64_t a, int64_t b) { return a >= 0 ? (a + b - 1) / b : -(-a / b); };
  auto floor_div = [](int64_t a, int64_t b) { return a >= 0 ? a / b : -((-a + b - 1) / b); };
  // Steps that touch the interval, and among them those that lie in it whole.
  const int64_t touch_first = std::max<int64_t>(0, ceil_div(begin - at - reach + 1, head.step));
  const int64_t touch_last = std::min(head.extent - 1, floor_div(end - 1 - at, head.step));
  const int64_t whole_first = std::max<int64_t>(0, ceil_div(begin - at, head.step));
  const int64_t whole_last = std::min(head.extent - 1, floor_div(end - at - reach, head.step));
  auto partial = [&](int64_t step) {
    range = {step, 1};
    cut_digits(digits.subspan(1), at + step * head.step, begin, end, ranges, emit);
  };
  for (int64_t i = touch_first; i <= std::min(touch_last, whole_first - 1); ++i) partial(i);
  if (whole_first <= whole_last) {
    range = {whole_first, whole_last - whole_first + 1};
    emit();
  }
  for (int64_t i = std::max({touch_first, whole_last + 1, whole_first}); i <= touch_last; ++i) partial(i);
  range = all;
}

std::vector<Digit> digits_of_dim(const Box& box, int64_t dim) {
  std::vector<Digit> digits;
  for (size_t a = 0; a < box.axes.size(); ++a)
    if (box.axes[a].native_dim == dim) digits.push_back({a, box.axes[a].extent, box.axes[a].native_step});
  std::sort(digits.begin(), digits.end(), [](const Digit& x, const Digit& y) { return x.step > y.step; });
  return digits;
}

// The parts of `box` with begin <= coordinate of `dim` < end.
void restrict_dim(const Box& box, int64_t dim, int64_t begin, int64_t end, std::vector<Box>& out) {
  const std::vector<Digit> digits = digits_of_dim(box, dim);
  std::vector<Range> ranges;
  for (const BoxAxis& axis : box.axes) ranges.push_back({0, axis.extent});
  cut_digits(digits, box.native_origin[dim], begin, end, ranges, [&] {
    Box part = box;
    for (size_t a = 0; a < ranges.size(); ++a) {
      part.axes[a].extent = ranges[a].count;
      part.hf_origin += ranges[a].first * box.axes[a].hf_stride;
      part.native_origin[box.axes[a].native_dim] += ranges[a].first * box.axes[a].native_step;
    }
    out.push_back(std::move(part));
  });
}

void order_by_target(Copy& copy) {
  std::stable_sort(copy.axes.begin(), copy.axes.end(), [](const CopyAxis& x, const CopyAxis& y) { return x.to > y.to; });
}

}  // namespace

int64_t Window::elements() const {
  int64_t out = 1;
  for (size_t d = 0; d < begin.size(); ++d) out *= std::max<int64_t>(0, end[d] - begin[d]);
  return out;
}

Window dense_window(Shape begin, Shape end, int64_t origin) {
  Window out{std::move(begin), std::move(end), {}, origin};
  out.strides.resize(out.begin.size());
  int64_t stride = 1;
  for (size_t d = out.begin.size(); d-- > 0;) {
    out.strides[d] = stride;
    stride *= out.end[d] - out.begin[d];
  }
  return out;
}

bool intersect(const Window& first, const Window& second, Window& out) {
  out = first;
  for (size_t d = 0; d < first.begin.size(); ++d) {
    out.begin[d] = std::max(first.begin[d], second.begin[d]);
    out.end[d] = std::min(first.end[d], second.end[d]);
    if (out.begin[d] >= out.end[d]) return false;
    out.origin += (out.begin[d] - first.begin[d]) * first.strides[d];
  }
  return true;
}

namespace {

// What of the window, whose first local row is `first`, lies in `rows`; placed in a buffer that begins with those rows.
void keep_rows(Window& window, int64_t first, Rows rows) {
  const int64_t begin = std::max(rows.begin - first, int64_t{0}), end = std::min(rows.end - first, window.end[0] - window.begin[0]);
  window.origin += (begin - rows.begin) * window.strides[0];
  window.end[0] = window.begin[0] + std::max(begin, end);
  window.begin[0] += begin;
}

}  // namespace

std::vector<Window> slice_windows(const Rule& rule, const Slice& slice, size_t segment) {
  const Segment& whole = rule.segments[segment];
  const SegmentSlice& cut = slice.segments[segment];
  const Shape strides = dense_window(Shape(slice.shape.size(), 0), slice.shape).strides;
  const size_t dim = whole.shard_dim == kReplicated ? 0 : static_cast<size_t>(whole.shard_dim);
  std::vector<Window> out;
  int64_t at = 0;
  for (const Interval& interval : cut.intervals) {
    Window window{Shape(whole.shape.size(), 0), whole.shape, strides, cut.offset * strides[0] + at * strides[dim]};
    window.begin[dim] = interval.begin;
    window.end[dim] = interval.end;
    if (slice.rows) keep_rows(window, cut.offset + (dim == 0 ? at : 0), *slice.rows);
    at += interval.end - interval.begin;
    out.push_back(std::move(window));
  }
  return out;
}

int64_t Copy::elements() const {
  int64_t out = 1;
  for (const CopyAxis& axis : axes) out *= axis.extent;
  return out;
}

void coalesce(Copy& copy) {
  std::erase_if(copy.axes, [](const CopyAxis& axis) { return axis.extent == 1; });
  std::vector<CopyAxis> joined;
  for (const CopyAxis& axis : copy.axes) {
    if (!joined.empty() && joined.back().from == axis.extent * axis.from && joined.back().to == axis.extent * axis.to)
      joined.back() = {joined.back().extent * axis.extent, axis.from, axis.to};
    else
      joined.push_back(axis);
  }
  copy.axes = std::move(joined);
}

void append_copies(const Box& box, const Window& window, std::vector<Copy>& out) {
  std::vector<Box> parts{box}, next;
  for (size_t d = 0; d < window.begin.size(); ++d) {
    next.clear();
    for (const Box& part : parts) restrict_dim(part, static_cast<int64_t>(d), window.begin[d], window.end[d], next);
    parts.swap(next);
  }
  for (const Box& part : parts) {
    Copy copy{part.source, part.hf_origin, window.origin, {}};
    for (size_t d = 0; d < window.begin.size(); ++d) copy.to += (part.native_origin[d] - window.begin[d]) * window.strides[d];
    for (const BoxAxis& axis : part.axes) copy.axes.push_back({axis.extent, axis.hf_stride, axis.native_step * window.strides[axis.native_dim]});
    order_by_target(copy);
    coalesce(copy);
    out.push_back(std::move(copy));
  }
}

void append_copies(const Window& from, const Window& to, int64_t source, std::vector<Copy>& out) {
  Window shared, target;
  if (!intersect(from, to, shared)) return;
  intersect(to, from, target);
  Copy copy{source, shared.origin, target.origin, {}};
  for (size_t d = 0; d < shared.begin.size(); ++d) copy.axes.push_back({shared.end[d] - shared.begin[d], shared.strides[d], target.strides[d]});
  order_by_target(copy);
  coalesce(copy);
  out.push_back(std::move(copy));
}

Copy reversed(const Copy& copy, int64_t source) {
  Copy out{source, copy.to, copy.from, {}};
  for (const CopyAxis& axis : copy.axes) out.axes.push_back({axis.extent, axis.to, axis.from});
  order_by_target(out);
  coalesce(out);
  return out;
}

void append_within(const Copy& copy, int64_t begin, int64_t end, std::vector<Copy>& out) {
  std::vector<Digit> digits;
  std::vector<Range> ranges;
  for (size_t a = 0; a < copy.axes.size(); ++a) {
    digits.push_back({a, copy.axes[a].extent, copy.axes[a].to});
    ranges.push_back({0, copy.axes[a].extent});
  }
  cut_digits(digits, copy.to, begin, end, ranges, [&] {
    Copy part = copy;
    part.to -= begin;
    for (size_t a = 0; a < ranges.size(); ++a) {
      part.axes[a].extent = ranges[a].count;
      part.from += ranges[a].first * copy.axes[a].from;
      part.to += ranges[a].first * copy.axes[a].to;
    }
    coalesce(part);
    out.push_back(std::move(part));
  });
}

}  // namespace ponte
