// The fixed part of an .idx file, shared by its reader and its writer.
#pragma once
#include <cstdint>

namespace ponte {

inline constexpr char kIndexMagic[9] = {'M', 'M', 'I', 'D', 'I', 'D', 'X', 0, 0};
inline constexpr int64_t kIndexHeaderBytes = 9 + 8 + 1 + 8 + 8;

}  // namespace ponte
