// CRC-32 of zip (reflected polynomial 0xEDB88320) at the speed of memory, and of concatenations from the CRCs of the parts.
// Source: Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ" (Intel, 2009).
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

namespace ponte {

uint32_t crc32_update(uint32_t crc, std::span<const std::byte> bytes);  // start with 0
uint32_t crc32_joined(uint32_t first, uint32_t second, uint64_t second_bytes);

}  // namespace ponte
