// A set of texts, and the longest of them that a text begins with.
#pragma once
#include <algorithm>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace ponte {

class PrefixTrie {
 public:
  static constexpr int32_t kNone = -1;
  bool empty() const { return nodes_.size() <= 1; }

  // The first value of a text stays.
  void insert(std::string_view text, int32_t value) {
    if (text.empty()) return;
    uint32_t node = 0;
    for (const char c : text) {
      auto& children = nodes_[node].children;
      const auto byte = static_cast<uint8_t>(c);
      auto it = std::lower_bound(children.begin(), children.end(), std::pair<uint8_t, uint32_t>{byte, 0});
      if (it == children.end() || it->first != byte) it = children.insert(it, {byte, static_cast<uint32_t>(nodes_.size())});
      node = it->second;
      if (node == nodes_.size()) nodes_.emplace_back();
    }
    if (nodes_[node].value == kNone) nodes_[node].value = value;
  }

  // Bytes of the longest text that [at, end) begins with, and its value; 0 for none.
  size_t longest(const char* at, const char* end, int32_t& value) const {
    size_t best = 0;
    uint32_t node = 0;
    for (const char* p = at; p < end;) {
      const auto& children = nodes_[node].children;
      const auto byte = static_cast<uint8_t>(*p++);
      const auto it = std::lower_bound(children.begin(), children.end(), std::pair<uint8_t, uint32_t>{byte, 0});
      if (it == children.end() || it->first != byte) break;
      node = it->second;
      if (nodes_[node].value != kNone) value = nodes_[node].value, best = static_cast<size_t>(p - at);
    }
    return best;
  }

 private:
  struct Node {
    std::vector<std::pair<uint8_t, uint32_t>> children;  // by byte, sorted
    int32_t value = kNone;
  };
  std::vector<Node> nodes_ = std::vector<Node>(1);
};

}  // namespace ponte
