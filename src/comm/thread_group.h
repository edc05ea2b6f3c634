// Ranks as threads of one process: the back end of the equality tests, so that every parallel seam runs at several ranks without launching
// anything. Collectives meet at a barrier and read each other's memory; messages are copied into a queue per pair of ranks.
#pragma once
#include <functional>
#include <vector>

#include "comm/group.h"

namespace ponte {

// Runs body(groups) on one thread per rank of the mesh. When a rank throws, the others' collectives and receives throw too; the first rank's exception is
// rethrown after all threads have ended. groups.world->rank() says which rank a body is.
void run_ranks(const Mesh& mesh, const std::function<void(const Groups&)>& body);
// The same with `size` ranks that form one tensor-parallel group.
void run_tensor_parallel(int64_t size, const std::function<void(const Groups&)>& body);

}  // namespace ponte
