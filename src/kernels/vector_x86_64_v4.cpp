// vector.h's kernels for x86-64-v4 (flags: src/CMakeLists.txt).
#include "kernels/vector.h"
#include "kernels/vector_tables.h"

namespace ponte {
namespace {
#include "kernels/vector_kernels.inc"
}  // namespace

const VectorTables k_x86_64_v4 = {"x86-64-v4", &kTable<float>, &kTable<Bf16>, &kDelta<float, float>, &kDelta<Bf16, float>, &kDelta<double, double>};

}  // namespace ponte
