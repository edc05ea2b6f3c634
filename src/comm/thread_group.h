// Ranks as threads of one process: the back end of the equality tests, so that every parallel seam runs at several ranks without launching
// anything. Collectives meet at a barrier and read each other's memory.
#pragma once
#include <functional>
#include <vector>

#include "comm/group.h"

namespace ponte {

// Groups of `size` ranks that meet each other; element i belongs to rank i. Each is used by one thread.
std::vector<std::shared_ptr<Group>> thread_groups(int64_t size);

// Runs body(groups) on `size` threads that form one tensor-parallel group. When a rank throws, the others' collectives throw too; the first
// rank's exception is rethrown after all threads have ended.
void run_tensor_parallel(int64_t size, const std::function<void(const Groups&)>& body);

}  // namespace ponte
