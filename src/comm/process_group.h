// A group of processes. A back end (Gloo for host memory, NCCL for CUDA cards) only moves bytes; sums are made here, in rank order, so that they are the same
// bits on every rank, in every run, and the same as those of the thread back end.
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
// Which back end moves a tensor: that of where it lies. Messages to lower ranks have one of their own on a device, whose messages between two ranks run in the
// order they were started in: a rank that sends before it receives must not hold up what comes towards it.
struct Backends {
  c10::intrusive_ptr<c10d::Backend> host, device, device_back;  // the last two are null where all tensors lie in host memory
};
std::shared_ptr<Group> process_group(Backends backends, ProcessGroupOptions options);

}  // namespace ponte
