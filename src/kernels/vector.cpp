// Chooses the vector table once, from what the processor says it has.
#include "kernels/vector.h"

#include <string_view>

#include "kernels/vector_tables.h"

namespace ponte {
namespace {

bool runs(std::string_view name) {
#if defined(__x86_64__)
  if (name == "x86-64-v4")
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("fma");
  if (name == "x86-64-v3") return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
#endif
  return name == "x86-64";
}

}  // namespace

const VectorTables* vector_tables(const char* name) {
  if (!runs(name)) return nullptr;
  for (const VectorTables* table : {&k_x86_64_v4, &k_x86_64_v3, &k_x86_64})
    if (std::string_view(table->name) == name) return table;
  return nullptr;
}

const VectorTables& vector_tables() {
  static const VectorTables& best = runs("x86-64-v4") ? k_x86_64_v4 : runs("x86-64-v3") ? k_x86_64_v3 : k_x86_64;
  return best;
}

int64_t attention_tiles(int64_t rows) { return (rows + kAttentionTile - 1) / kAttentionTile; }

int64_t attention_scratch_floats(int64_t D) { return kAttentionTile * (2 * D + kAttentionTile + 2); }

int64_t attention_backward_scratch_floats(int64_t queries, int64_t keys, int64_t D) {
  const int64_t q = attention_tiles(queries) * kAttentionTile, k = attention_tiles(keys) * kAttentionTile;
  return 5 * k * D + (4 * D + 1) * q + kAttentionTile * (D + 2 * kAttentionTile);
}

int64_t delta_chunks(int64_t tokens) { return (tokens + kDeltaChunk - 1) / kDeltaChunk; }

// As delta_chunk and delta_work, and delta_backward, take their pieces; each is rounded up to 16.
int64_t delta_scratch(int64_t, int64_t D, int64_t V) {
  const int64_t C = kDeltaChunk, wide = V > C ? V : C;
  return C * (3 * D + 2) + 5 * C * C + 3 * C * wide + 16 * 16;
}

int64_t delta_backward_scratch(int64_t values, int64_t D, int64_t V) {
  const int64_t C = kDeltaChunk;
  return delta_scratch(values, D, V) + 4 * C * D + 6 * C * C + 6 * C * V + 16 * 16;
}

}  // namespace ponte
