// 64 bytes a turn are folded with carry-less multiplication where the processor has it; zlib does the rest.
#include "format/crc32.h"

#include <zlib.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace ponte {
namespace {

uint32_t crc32_table(uint32_t crc, const std::byte* data, size_t size) {
  return static_cast<uint32_t>(crc32_z(crc, reinterpret_cast<const Bytef*>(data), size));
}

#if defined(__x86_64__)
// Constants of the paper for this polynomial: x^(512+-32), x^(128+-32), x^64 mod P, and Barrett's P and mu, all bit-reflected.
alignas(16) constexpr uint64_t kFold512[2] = {0x0154442bd4, 0x01c6e41596};
alignas(16) constexpr uint64_t kFold128[2] = {0x01751997d0, 0x00ccaa009e};
alignas(16) constexpr uint64_t kFold64[2] = {0x0163cd6124, 0};
alignas(16) constexpr uint64_t kBarrett[2] = {0x01db710641, 0x01f7011641};

__attribute__((target("pclmul,sse4.1"))) inline __m128i fold(__m128i state, __m128i factors, __m128i next) {
  const __m128i low = _mm_clmulepi64_si128(state, factors, 0x00);
  const __m128i high = _mm_clmulepi64_si128(state, factors, 0x11);
  return _mm_xor_si128(_mm_xor_si128(low, high), next);
}

// `size` is a multiple of 16 and at least 64; crc is the inverted register.
__attribute__((target("pclmul,sse4.1"))) uint32_t crc32_folded(uint32_t crc, const std::byte* data, size_t size) {
  const auto load = [](const std::byte* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); };
  const auto constant = [](const uint64_t* p) { return _mm_load_si128(reinterpret_cast<const __m128i*>(p)); };
  __m128i x0 = _mm_xor_si128(load(data), _mm_cvtsi32_si128(static_cast<int>(crc)));
  __m128i x1 = load(data + 16), x2 = load(data + 32), x3 = load(data + 48);
  const __m128i by512 = constant(kFold512), by128 = constant(kFold128);
  for (data += 64, size -= 64; size >= 64; data += 64, size -= 64) {
    x0 = fold(x0, by512, load(data));
    x1 = fold(x1, by512, load(data + 16));
    x2 = fold(x2, by512, load(data + 32));
    x3 = fold(x3, by512, load(data + 48));
  }
  x0 = fold(x0, by128, x1);
  x0 = fold(x0, by128, x2);
  x0 = fold(x0, by128, x3);
  for (; size >= 16; data += 16, size -= 16) x0 = fold(x0, by128, load(data));
  // 128 -> 64 -> 32 bits.
  const __m128i low32 = _mm_setr_epi32(~0, 0, ~0, 0);
  x1 = _mm_clmulepi64_si128(x0, by128, 0x10);
  x0 = _mm_xor_si128(_mm_srli_si128(x0, 8), x1);
  x1 = _mm_srli_si128(x0, 4);
  x0 = _mm_xor_si128(_mm_clmulepi64_si128(_mm_and_si128(x0, low32), constant(kFold64), 0x00), x1);
  const __m128i barrett = constant(kBarrett);
  x1 = _mm_clmulepi64_si128(_mm_and_si128(x0, low32), barrett, 0x10);
  x1 = _mm_clmulepi64_si128(_mm_and_si128(x1, low32), barrett, 0x00);
  return static_cast<uint32_t>(_mm_extract_epi32(_mm_xor_si128(x0, x1), 1));
}

bool can_fold() {
  static const bool yes = __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1");
  return yes;
}
#endif

}  // namespace

uint32_t crc32_update(uint32_t crc, std::span<const std::byte> bytes) {
  const std::byte* data = bytes.data();
  size_t size = bytes.size();
#if defined(__x86_64__)
  if (size >= 64 && can_fold()) {
    const size_t folded = size & ~size_t{15};
    crc = ~crc32_folded(~crc, data, folded);
    data += folded;
    size -= folded;
  }
#endif
  return size ? crc32_table(crc, data, size) : crc;
}

uint32_t crc32_joined(uint32_t first, uint32_t second, uint64_t second_bytes) {
  return static_cast<uint32_t>(crc32_combine64(first, second, static_cast<z_off64_t>(second_bytes)));
}

}  // namespace ponte
