// Ranks that ran alone (comm/lone_ranks.h), held against each other: whoever shares a group has to ask the same collectives of it in the same order, of the
// same type and shape, told rows that fit, and messages that are sent have to be those that are received.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "comm/lone_ranks.h"

namespace ponte {

class CallComparison {
 public:
  // Against all that were added before.
  void add(const LoneRank& rank);
  // For every group and pair of ranks the first thing that does not fit.
  const std::vector<std::string>& differences() const { return differences_; }
  int64_t compared() const { return compared_; }  // calls, of each pair of ranks

 private:
  struct Side {
    int64_t rank, place;  // of all, and in the group
    std::shared_ptr<const GroupCalls> calls;
  };
  void compare_collectives(const Side& a, const Side& b);
  void compare_messages(const Side& from, const Side& to);
  std::map<std::vector<int64_t>, std::vector<Side>> groups_;  // by ranks; left out once all of these have been compared
  std::vector<std::string> differences_;
  int64_t compared_ = 0;
};

}  // namespace ponte
