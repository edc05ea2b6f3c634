// Token spellings by id and ids by spelling: one arena and one open-addressing table.
#pragma once
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace ponte {

class TokenTable {
 public:
  static constexpr int32_t kNone = -1;

  void reserve(size_t tokens, size_t bytes);
  // Later insertions of the same spelling win, as in a map.
  void insert(std::string_view token, int32_t id);
  int32_t find(std::string_view token) const;
  size_t size() const { return entries_.size(); }
  // Calls visit(spelling, id) in order of insertion.
  template <class Visit>
  void for_each(Visit&& visit) const {
    for (const Entry& e : entries_) visit(text(e), e.id);
  }

 private:
  struct Entry {
    uint64_t offset;
    uint32_t length;
    int32_t id;
    uint64_t hash;
  };
  std::string_view text(const Entry& e) const { return {arena_.data() + e.offset, e.length}; }
  static uint64_t hash(std::string_view token);
  void rebuild(size_t slots);

  std::string arena_;
  std::vector<Entry> entries_;
  std::vector<uint32_t> slots_;  // entry + 1, 0 free
};

}  // namespace ponte
