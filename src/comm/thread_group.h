// Ranks as threads of one process: the back end of the equality tests, so that every parallel seam runs at several ranks without launching
// anything. Collectives meet at a barrier and read each other's memory; a rank that throws releases the others with an error.
#pragma once
#include <functional>

#include "comm/group.h"

namespace ponte {

// Runs body(groups) on tensor_parallel threads, each with its own tensor group (and key_value_replicas subgroups of `replicas` neighbouring
// ranks). Rethrows the first rank's exception after all threads have ended.
void run_tensor_parallel_threads(int64_t tensor_parallel, int64_t replicas, const std::function<void(const Groups&)>& body);

}  // namespace ponte
