// The product of bf16 operands beside fp64: odd sizes, both orientations of both operands, either type of result, any division into rows.
#include "kernels/bf16_product.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <vector>

namespace ponte {
namespace {

struct Case {
  int64_t M, K, N;
};
constexpr Case kCases[] = {{1, 1, 1}, {2, 3, 5}, {6, 64, 64}, {7, 33, 65}, {97, 130, 66}, {5, 511, 17}, {13, 1025, 70}, {200, 1300, 130}, {193, 512, 192}};

at::Tensor operand(int64_t rows, int64_t columns, bool transposed) {
  const at::Tensor t = at::randn(transposed ? at::IntArrayRef{columns, rows} : at::IntArrayRef{rows, columns}).to(at::kBFloat16);
  return transposed ? t.t() : t;
}
Bf16Matrix matrix_of(const at::Tensor& t) { return {static_cast<const uint16_t*>(t.const_data_ptr()), t.stride(0), t.stride(1)}; }

// In two calls that meet at row `cut`.
void product(const at::Tensor& a_MK, const at::Tensor& b_KN, ProductRows out, int64_t cut) {
  const int64_t M = a_MK.size(0), K = a_MK.size(1), N = b_KN.size(1);
  std::vector<uint32_t> packed(packed_words(K, N)), scratch(product_scratch_words(K, N));
  pack_panels(matrix_of(b_KN), K, N, 0, (N + kProductPanel - 1) / kProductPanel, packed.data());
  product_rows(matrix_of(a_MK), packed.data(), K, N, 0, cut, out, scratch.data());
  product_rows(matrix_of(a_MK), packed.data(), K, N, cut, M, out, scratch.data());
}

double difference(const at::Tensor& got, const at::Tensor& wanted) { return ((got.to(at::kDouble) - wanted).norm() / wanted.norm()).item<double>(); }

TEST(Bf16Product, EqualsFp64) {
  if (!bf16_product_runs()) return;  // other processors take ATen's products
  at::manual_seed(1);
  for (const auto [M, K, N] : kCases)
    for (const int layout : {0, 1, 2, 3}) {
      SCOPED_TRACE(::testing::Message() << M << " x " << K << " x " << N << ", layout " << layout);
      const at::Tensor a = operand(M, K, layout & 1), b = operand(K, N, layout & 2), exact = a.to(at::kDouble).matmul(b.to(at::kDouble));
      at::Tensor y = at::empty({M, N}, at::kBFloat16), sum = at::ones({M, N + 3}), again = at::ones({M, N + 3});
      product(a, b, {.bf16 = static_cast<uint16_t*>(y.data_ptr()), .stride = N}, M / 2);
      EXPECT_LT(difference(y, exact), 4e-3);
      product(a, b, {.fp32 = sum.data_ptr<float>(), .stride = N + 3, .accumulate = true}, M / 2);
      EXPECT_LT(difference(sum.narrow(1, 0, N), exact + 1), 2e-6);
      EXPECT_TRUE(sum.narrow(1, N, 3).eq(1).all().item<bool>());
      product(a, b, {.fp32 = again.data_ptr<float>(), .stride = N + 3, .accumulate = true}, M / 3);
      EXPECT_TRUE(at::equal(sum, again));
    }
}

}  // namespace
}  // namespace ponte
