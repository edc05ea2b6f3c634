// ATen's threads for our own loops. at::parallel_for is a template and runs on one thread in every file compiled without OpenMP; here it is compiled
// once, with it, so that no other file needs the flag.
#pragma once
#include <c10/util/FunctionRef.h>

#include <cstdint>

namespace ponte {

// body(from, to) over parts of [begin, end) of at least `grain` indices (the last may be shorter), on at most at::get_num_threads() threads; on the
// caller's alone where it is already inside such a body. Returns when all parts are done; the first exception is rethrown.
void parallel_parts(int64_t begin, int64_t end, int64_t grain, c10::function_ref<void(int64_t, int64_t)> body);

}  // namespace ponte
