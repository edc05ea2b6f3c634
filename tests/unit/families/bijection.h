// Every element of every HF tensor feeds exactly one element of exactly one parameter, and every parameter is fed throughout.
#pragma once
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "families/rule.h"

namespace ponte {

inline int64_t numel(const Shape& shape) {
  int64_t n = 1;
  for (int64_t e : shape) n *= e;
  return n;
}

// Calls visit(flat HF element, flat segment element) for every element of a box.
template <class Visit>
void for_each_element(const Box& box, const Segment& segment, Visit visit) {
  std::vector<int64_t> index(box.axes.size(), 0);
  for (bool more = true; more;) {
    int64_t from = box.hf_origin, to = 0;
    Shape at = box.native_origin;
    for (size_t a = 0; a < index.size(); ++a) {
      from += index[a] * box.axes[a].hf_stride;
      at[static_cast<size_t>(box.axes[a].native_dim)] += index[a] * box.axes[a].native_step;
    }
    for (size_t d = 0; d < at.size(); ++d) to = to * segment.shape[d] + at[d];
    visit(static_cast<size_t>(from), static_cast<size_t>(to));
    more = false;
    for (size_t a = index.size(); a-- > 0 && !more;) {
      if (++index[a] < box.axes[a].extent) more = true;
      else index[a] = 0;
    }
  }
}

inline void expect_bijection(const RuleTable& table) {
  std::map<std::string, std::vector<int>> used;
  for (const Rule& rule : table.rules) {
    int64_t rows = 0;
    for (const Segment& segment : rule.segments) {
      std::vector<int> filled(static_cast<size_t>(numel(segment.shape)), 0);
      for (const Box& box : segment.boxes) {
        const Source& source = rule.sources.at(static_cast<size_t>(box.source));
        std::vector<int>& hf = used.try_emplace(source.name, static_cast<size_t>(numel(source.shape)), 0).first->second;
        for_each_element(box, segment, [&](size_t from, size_t to) { ++hf.at(from), ++filled.at(to); });
      }
      EXPECT_EQ(std::count(filled.begin(), filled.end(), 1), numel(segment.shape)) << rule.name();
      rows += segment.shape[0];
    }
    EXPECT_EQ(rows, rule.shape[0]) << rule.name();
  }
  for (const auto& [name, counts] : used) EXPECT_EQ(std::count(counts.begin(), counts.end(), 1), static_cast<int64_t>(counts.size())) << name;
}

}  // namespace ponte
