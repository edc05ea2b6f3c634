// The slow definition the strided arithmetic is tested against: buffers of distinct numbers, moved one element at a time.
#pragma once
#include <cstdint>
#include <vector>

#include "layout/copies.h"

namespace ponte::testing {

using Elements = std::vector<int64_t>;

inline int64_t numel(const Shape& shape) {
  int64_t n = 1;
  for (int64_t e : shape) n *= e;
  return n;
}

inline void apply(const Copy& copy, const Elements& from, Elements& to) {
  std::vector<int64_t> index(copy.axes.size(), 0);
  for (int64_t n = copy.elements(); n > 0; --n) {
    int64_t f = copy.from, t = copy.to;
    for (size_t a = 0; a < index.size(); ++a) f += index[a] * copy.axes[a].from, t += index[a] * copy.axes[a].to;
    to.at(t) = from.at(f);
    for (size_t a = index.size(); a-- > 0;) {
      if (++index[a] < copy.axes[a].extent) break;
      index[a] = 0;
    }
  }
}

// Every HF tensor of the rule filled with numbers of its own: source s holds s * 1e6 + position.
inline std::vector<Elements> hf_values(const Rule& rule) {
  std::vector<Elements> out;
  for (size_t s = 0; s < rule.sources.size(); ++s) {
    Elements values(numel(rule.sources[s].shape));
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<int64_t>(s * 1000000 + i);
    out.push_back(std::move(values));
  }
  return out;
}

// The whole of segment `segment`, through append_copies over one window.
inline Elements whole_segment(const Rule& rule, const Segment& segment, const std::vector<Elements>& hf) {
  Elements out(numel(segment.shape), -1);
  std::vector<Copy> copies;
  for (const Box& box : segment.boxes) append_copies(box, dense_window(Shape(segment.shape.size(), 0), segment.shape), copies);
  for (const Copy& copy : copies) apply(copy, hf[copy.source], out);
  return out;
}

}  // namespace ponte::testing
