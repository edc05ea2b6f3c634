// Compiled for avx512_bf16 (src/CMakeLists.txt); nothing here may use inline functions of the standard library, which the linker might share with code
// for older processors.
#include "kernels/bf16_product.h"

#include <immintrin.h>

namespace ponte {
namespace {

constexpr int64_t kStretch = 512;  // of K, about: a panel of it stays in a core's second-level cache
constexpr int kTileRows = 6, kTileVectors = 4;

int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t at_least(int64_t a, int64_t b) { return a > b ? a : b; }
__mmask32 first_of_32(int64_t n) { return static_cast<__mmask32>(n >= 32 ? ~0u : (1u << at_least(n, 0)) - 1u); }
__mmask16 first_of_16(int64_t n) { return static_cast<__mmask16>(n >= 16 ? 0xffffu : (1u << at_least(n, 0)) - 1u); }

// Length of the stretches K is cut into: even, about equal.
int64_t stretch_of(int64_t K) {
  const int64_t parts = at_least((K + kStretch / 2) / kStretch, 1);
  return ((K + parts - 1) / parts + 1) / 2 * 2;
}

// out[p][c] = elements (2p, c) and (2p + 1, c) of a matrix whose columns lie side by side; zeros beyond K and `columns`. `width` is a multiple of 16.
void pair_rows(const uint16_t* in, int64_t stride, int64_t K, int64_t columns, int64_t width, uint32_t* out) {
  const auto widened = [](const uint16_t* at, __mmask16 kept) {
    return _mm512_cvtepu16_epi32(kept == 0xffffu ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)) : _mm256_maskz_loadu_epi16(kept, at));
  };
  for (int64_t k = 0; k < K; k += 2, out += width) {
    const uint16_t* row = in + k * stride;
    const bool pair = k + 1 < K;
    for (int64_t c = 0; c < width; c += 16) {
      const __mmask16 kept = first_of_16(columns - c);
      const __m512i high = pair ? _mm512_slli_epi32(widened(row + stride + c, kept), 16) : _mm512_setzero_si512();
      _mm512_storeu_si512(out + c, _mm512_or_si512(widened(row + c, kept), high));
    }
  }
}

// Sixteen vectors of sixteen words, transposed.
__attribute__((always_inline)) inline void transpose(__m512i r[16]) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
    r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
  }
}

// The same for a matrix whose rows (of K) lie one after the other, `stride` apart: in[c * stride + k].
void pair_columns(const uint16_t* in, int64_t stride, int64_t K, int64_t columns, int64_t width, uint32_t* out) {
  const int64_t pairs = (K + 1) / 2;
  for (int64_t c = 0; c < width; c += 16)
    for (int64_t p = 0; p < pairs; p += 16) {
      __m512i r[16];
      const __mmask32 kept = first_of_32(K - 2 * p);
      for (int i = 0; i < 16; ++i) r[i] = c + i < columns ? _mm512_maskz_loadu_epi16(kept, in + (c + i) * stride + 2 * p) : _mm512_setzero_si512();
      transpose(r);
      const int64_t rows = at_most(pairs - p, 16);
      for (int64_t i = 0; i < rows; ++i) _mm512_storeu_si512(out + (p + i) * width + c, r[i]);
    }
}

void pair_up(const uint16_t* in, int64_t k_stride, int64_t other_stride, int64_t K, int64_t columns, int64_t width, uint32_t* out) {
  if (other_stride == 1) pair_rows(in, k_stride, K, columns, width, out);
  else pair_columns(in, other_stride, K, columns, width, out);
}

// Where a tile of sums comes from and goes to.
struct Tile {
  const float* start;  // nullptr: zero
  float* fp32;         // nullptr: rounded to bf16
  uint16_t* bf16;
  int64_t start_stride, stride;
};

// Pair p of row r of the left operand lies at a[r * row_step + p * pair_step].
template <int rows>
void multiply_tile(int64_t pairs, const uint32_t* a, int64_t row_step, int64_t pair_step, const uint32_t* panel, int64_t columns, const Tile& tile) {
  __m512 sum[rows][kTileVectors];
  __mmask16 kept[kTileVectors];
  for (int v = 0; v < kTileVectors; ++v) kept[v] = first_of_16(columns - 16 * v);
  for (int r = 0; r < rows; ++r)
    for (int v = 0; v < kTileVectors; ++v) sum[r][v] = _mm512_setzero_ps();
  for (int64_t p = 0; p < pairs; ++p) {
    __m512bh b[kTileVectors];
    for (int v = 0; v < kTileVectors; ++v) b[v] = (__m512bh)_mm512_loadu_si512(panel + p * kProductPanel + 16 * v);
    for (int r = 0; r < rows; ++r) {
      const __m512bh left = (__m512bh)_mm512_set1_epi32(static_cast<int>(a[r * row_step + p * pair_step]));
      for (int v = 0; v < kTileVectors; ++v) sum[r][v] = _mm512_dpbf16_ps(sum[r][v], left, b[v]);
    }
  }
  for (int r = 0; r < rows; ++r)
    for (int v = 0; v < kTileVectors; ++v) {
      // At the end: the processor is already at the next tile while these loads are under way.
      if (tile.start) sum[r][v] = _mm512_add_ps(sum[r][v], _mm512_maskz_loadu_ps(kept[v], tile.start + r * tile.start_stride + 16 * v));
      if (tile.fp32) _mm512_mask_storeu_ps(tile.fp32 + r * tile.stride + 16 * v, kept[v], sum[r][v]);
      else _mm256_mask_storeu_epi16(tile.bf16 + r * tile.stride + 16 * v, kept[v], (__m256i)_mm512_cvtneps_pbh(sum[r][v]));
    }
}

void multiply(int64_t rows, int64_t pairs, const uint32_t* a, int64_t row_step, int64_t pair_step, const uint32_t* panel, int64_t columns, const Tile& tile) {
  switch (rows) {
    case 1: return multiply_tile<1>(pairs, a, row_step, pair_step, panel, columns, tile);
    case 2: return multiply_tile<2>(pairs, a, row_step, pair_step, panel, columns, tile);
    case 3: return multiply_tile<3>(pairs, a, row_step, pair_step, panel, columns, tile);
    case 4: return multiply_tile<4>(pairs, a, row_step, pair_step, panel, columns, tile);
    case 5: return multiply_tile<5>(pairs, a, row_step, pair_step, panel, columns, tile);
    default: return multiply_tile<kTileRows>(pairs, a, row_step, pair_step, panel, columns, tile);
  }
}

// A block of the left operand over one stretch of K, as pairs: the matrix itself where its pairs lie together, else packed.
struct LeftBlock {
  const uint32_t* pairs;
  int64_t row_step, pair_step;
};
LeftBlock left_block(const Bf16Matrix& a, int64_t row, int64_t rows, int64_t k, int64_t length, uint32_t* room) {
  const uint16_t* from = a.data + row * a.row_stride + k * a.column_stride;
  if (a.column_stride == 1 && a.row_stride % 2 == 0 && length % 2 == 0) return {reinterpret_cast<const uint32_t*>(from), a.row_stride / 2, 1};
  pair_up(from, a.column_stride, a.row_stride, length, rows, kProductBlock, room);
  return {room, 1, kProductBlock};
}

}  // namespace

bool bf16_product_runs() {
  // Features, not the name of the level: GCC 11 does not know it here.
  static const bool runs = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("avx512bf16") &&
                           !__builtin_cpu_supports("amx-bf16");
  return runs;
}

int64_t product_scratch_words(int64_t K, int64_t N) { return stretch_of(K) / 2 * kProductBlock + kProductBlock * N; }

void pack_panels(const Bf16Matrix& b_KN, int64_t K, int64_t N, int64_t from, int64_t to, uint32_t* packed) {
  for (int64_t panel = from; panel < to; ++panel) {
    const int64_t column = panel * kProductPanel;
    pair_up(b_KN.data + column * b_KN.column_stride, b_KN.row_stride, b_KN.column_stride, K, N - column, kProductPanel, packed + (K + 1) / 2 * column);
  }
}

void product_rows(const Bf16Matrix& a_MK, const uint32_t* packed, int64_t K, int64_t N, int64_t from, int64_t to, const ProductRows& out, uint32_t* scratch) {
  const int64_t stretch = stretch_of(K), all_pairs = (K + 1) / 2;
  float* sums = reinterpret_cast<float*>(scratch + stretch / 2 * kProductBlock);  // of a block, between stretches, where the result is bf16
  for (int64_t row = from; row < to; row += kProductBlock) {
    const int64_t rows = at_most(kProductBlock, to - row);
    for (int64_t k = 0; k < K; k += stretch) {
      const int64_t length = at_most(stretch, K - k);
      const LeftBlock left = left_block(a_MK, row, rows, k, length, scratch);
      const bool first = k == 0, last = k + length == K, to_sums = out.bf16 && !last;
      for (int64_t column = 0; column < N; column += kProductPanel) {
        const uint32_t* panel = packed + all_pairs * column + k / 2 * kProductPanel;
        for (int64_t r = 0; r < rows; r += kTileRows) {
          float *sum = sums + r * N + column, *target = out.fp32 ? out.fp32 + (row + r) * out.stride + column : nullptr;
          const bool fresh = first && !out.accumulate;
          const Tile tile{fresh ? nullptr : (out.fp32 ? target : sum), out.fp32 ? target : (to_sums ? sum : nullptr),
                          out.bf16 ? out.bf16 + (row + r) * out.stride + column : nullptr, out.fp32 ? out.stride : N, out.fp32 || !to_sums ? out.stride : N};
          multiply(at_most(kTileRows, rows - r), (length + 1) / 2, left.pairs + r * left.row_step, left.row_step, left.pair_step, panel, N - column, tile);
        }
      }
    }
  }
}

}  // namespace ponte
