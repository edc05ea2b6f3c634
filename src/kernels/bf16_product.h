// Matrix products of bf16 operands with fp32 sums, for processors with the avx512_bf16 instructions and no matrix unit. Shapes cost nothing to prepare, so
// rows may differ from call to call, as an expert's do; and the result may be fp32, which ATen's products of bf16 cannot give. Goto and van de Geijn 2008:
// the right operand is packed once in panels, the left one block by block, and a tile of the result stays in registers over a stretch of K.
//
// An element of the result is one chain of sums in a fixed order of K: it depends neither on the number of threads nor on the other rows.
#pragma once
#include <cstdint>

namespace ponte {

// Element (r, c) lies at data[r * row_stride + c * column_stride]; one of the strides is 1.
struct Bf16Matrix {
  const uint16_t* data;
  int64_t row_stride, column_stride;
};

// Rows of the result: bf16 or fp32, contiguous within a row. `accumulate` adds to what is there (fp32 only).
struct ProductRows {
  uint16_t* bf16 = nullptr;
  float* fp32 = nullptr;
  int64_t stride = 0;
  bool accumulate = false;
};

inline constexpr int64_t kProductPanel = 64;  // columns
inline constexpr int64_t kProductBlock = 96;  // rows of the left operand taken together; a multiple of the register tile's 6

bool bf16_product_runs();

// 32-bit words of the packed right operand.
inline int64_t packed_words(int64_t K, int64_t N) { return (K + 1) / 2 * ((N + kProductPanel - 1) / kProductPanel * kProductPanel); }
// 32-bit words of one thread's working memory.
int64_t product_scratch_words(int64_t K, int64_t N);

// Packs panels [from, to) of b_KN.
void pack_panels(const Bf16Matrix& b_KN, int64_t K, int64_t N, int64_t from, int64_t to, uint32_t* packed);

// Rows [from, to) of a_MK b_KN. `out` begins at row 0. `scratch` is the caller's own.
void product_rows(const Bf16Matrix& a_MK, const uint32_t* packed, int64_t K, int64_t N, int64_t from, int64_t to, const ProductRows& out, uint32_t* scratch);

}  // namespace ponte
