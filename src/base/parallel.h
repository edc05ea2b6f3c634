// Data parallelism of the torch-free half: a body over [0, n) on a few threads, first exception rethrown.
#pragma once
#include <cstdint>
#include <functional>

namespace ponte {

// Calls body(i) for every i in [0, n), each exactly once, in no stated order, on at most `threads` threads (0: default_threads()). The first
// exception stops the hand-out of further indices and is rethrown here after all threads have ended.
void parallel_for(int64_t n, int64_t threads, const std::function<void(int64_t)>& body);

}  // namespace ponte
