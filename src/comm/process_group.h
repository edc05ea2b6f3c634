// A group of processes. A back end only moves bytes; sums are made here, in rank order, so that they are the same bits on every rank, in every run, and
// the same as those of the thread back end.
#pragma once
#include <torch/csrc/distributed/c10d/Backend.hpp>

#include "comm/group.h"
#include "comm/life.h"

namespace ponte {

struct ProcessGroupOptions {
  std::string name;               // "data", for messages
  std::vector<int64_t> members;   // global ranks, in the order of the group
  int64_t rank = 0;               // this process's place among them
  std::shared_ptr<Life> life;
};
std::shared_ptr<Group> process_group(c10::intrusive_ptr<c10d::Backend> backend, ProcessGroupOptions options);

}  // namespace ponte
