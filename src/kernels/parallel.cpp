// Compiled with OpenMP (src/CMakeLists.txt).
#include "kernels/parallel.h"

#include <ATen/Parallel.h>

#if !defined(INTRA_OP_PARALLEL)
#error "ATen's loops would run on one thread: compile this file with OpenMP"
#endif

namespace ponte {

void parallel_parts(int64_t begin, int64_t end, int64_t grain, c10::function_ref<void(int64_t, int64_t)> body) {
  at::parallel_for(begin, end, grain, body);
}

}  // namespace ponte
