// The tables behind vector_tables(), one per instruction set, and the constants their bodies share.
#pragma once
#include <cstdint>

namespace ponte {

struct VectorTables;
inline constexpr int64_t kAttentionTile = 64;
inline constexpr int64_t kDeltaChunk = 64;
extern const VectorTables k_x86_64, k_x86_64_v3, k_x86_64_v4;

}  // namespace ponte
