// Every instruction set's table that this machine runs gives what the plainest one gives.
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "kernels/vector.h"
#include "kernels/vector_tables.h"

namespace ponte {
namespace {

std::vector<float> random(size_t n, float scale = 1) {
  std::mt19937 generator(7);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> out(n);
  for (float& x : out) x = normal(generator);
  return out;
}

void expect_near(const std::vector<float>& a, const std::vector<float>& b, float tolerance) {
  ASSERT_EQ(a.size(), b.size());
  double difference = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) difference += (a[i] - b[i]) * (a[i] - b[i]), norm += b[i] * b[i];
  EXPECT_LE(std::sqrt(difference), tolerance * std::sqrt(norm));
}

std::vector<const VectorTables*> tables() {
  std::vector<const VectorTables*> found;
  for (const char* name : {"x86-64", "x86-64-v3", "x86-64-v4"})
    if (const VectorTables* table = vector_tables(name)) found.push_back(table);
  return found;
}

TEST(Vector, TheBestTableIsTheLastThatRuns) { EXPECT_STREQ(vector_tables().name, tables().back()->name); }

TEST(Vector, ExponentialsReachBothEnds) {
  for (const VectorTables* table : tables()) {
    std::vector<float> x = {-200, -100, -87.2f, -20, -1e-6f, 0, 1e-6f, 1, 20, 88, 1}, y(x.size());
    for (size_t i = 0; i < x.size(); ++i) {  // silu(gate) * 1 from one exponential
      float pair[2] = {x[i], 1};
      table->f32->swiglu(1, 1, pair, &y[i]);
      const double wanted = x[i] / (1 + std::exp(-static_cast<double>(x[i])));
      EXPECT_NEAR(y[i], wanted, 1e-6 * std::abs(wanted) + 1e-36) << table->name << " " << x[i];
    }
  }
}

TEST(Vector, Bf16RoundsToNearestEvenAndKeepsNan) {
  const std::pair<float, uint16_t> cases[] = {{1.0f, 0x3f80}, {1.00390625f, 0x3f80}, {1.01171875f, 0x3f82},
                                               {-0.0f, 0x8000}, {3.4e38f, 0x7f80}, {INFINITY, 0x7f80}};
  for (const VectorTables* table : tables()) {
    for (const auto& [value, bits] : cases) {
      Bf16 out;
      table->bf16->from_float(1, &value, &out);
      EXPECT_EQ(out.bits, bits) << table->name << " " << value;
    }
    const float nan = NAN;
    Bf16 out;
    table->bf16->from_float(1, &nan, &out);
    EXPECT_TRUE((out.bits & 0x7f80) == 0x7f80 && (out.bits & 0x7f)) << table->name;
  }
}

TEST(Vector, MatrixVectorOfEveryBatch) {
  const int64_t O = 13, I = 75;
  const auto w = random(O * I);
  for (const VectorTables* table : tables())
    for (int64_t batch = 1; batch <= 8; ++batch) {
      const auto x = random(batch * I);
      std::vector<float> y(batch * O, 1), wanted(batch * O);
      table->f32->matrix_vector(0, O, I, batch, w.data(), x.data(), y.data(), O, true);
      for (int64_t b = 0; b < batch; ++b)
        for (int64_t o = 0; o < O; ++o) {
          double sum = 1;
          for (int64_t i = 0; i < I; ++i) sum += static_cast<double>(w[o * I + i]) * x[b * I + i];
          wanted[b * O + o] = static_cast<float>(sum);
        }
      expect_near(y, wanted, 1e-6f);
    }
}

TEST(Vector, AttentionOfEveryTableAndOfOneQueryAgree) {
  const int64_t T = 150, D = 40, heads = 2;
  const auto q = random(heads * T * D), k = random(T * D), v = random(T * D), dout = random(heads * T * D);
  std::vector<int64_t> first(T), last(T);
  for (int64_t t = 0; t < T; ++t) first[t] = std::max<int64_t>(0, t - 99), last[t] = t + 1;
  std::vector<std::vector<float>> outs, gradients;
  for (const VectorTables* table : tables()) {
    const AttentionRow<float> row{q.data(), k.data(), v.data(), T * D, T * D, T, T, heads, 1, D, first.data(), last.data(), 0.2f};
    const int64_t packed = attention_tiles(T) * kAttentionTile * D;
    std::vector<float> keys(packed), values(packed), scratch(attention_scratch_floats(D)), out(T * heads * D), log_sum(heads * T);
    table->f32->pack_keys(T, D, k.data(), v.data(), keys.data(), values.data());
    for (int64_t h = 0; h < heads; ++h)
      table->f32->attention(row, h, 0, T, keys.data(), values.data(), table->f32->tile_product, scratch.data(),
                            out.data() + h * D, heads * D, log_sum.data() + h * T);
    std::vector<float> gradient(heads * T * D + 2 * T * D), big(attention_backward_scratch_floats(T, T, D));
    table->f32->attention_backward(row, 0, out.data(), dout.data(), heads * D, log_sum.data(), table->f32->tile_product, big.data(), gradient.data(),
                                   gradient.data() + heads * T * D, gradient.data() + (heads + 1) * T * D);
    std::vector<float> weights(T), one(D);
    table->f32->attend_one(100, D, q.data() + 99 * D, k.data(), v.data(), 0.2f, weights.data(), one.data());
    expect_near(one, std::vector<float>(out.begin() + 99 * heads * D, out.begin() + 99 * heads * D + D), 1e-5f);
    outs.push_back(out);
    gradients.push_back(gradient);
  }
  for (size_t i = 1; i < outs.size(); ++i) {
    expect_near(outs[i], outs[0], 2e-6f);
    expect_near(gradients[i], gradients[0], 2e-6f);
  }
}

}  // namespace
}  // namespace ponte
