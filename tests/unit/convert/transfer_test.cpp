// Copies between strided boxes against an element-by-element walk.
#include "convert/transfer.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <mutex>

#include "base/errors.h"
#include "base/hash.h"

namespace ponte {
namespace {

template <class T>
std::span<const std::byte> bytes_of(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

std::vector<uint32_t> counting(size_t n) {
  std::vector<uint32_t> out(n);
  for (size_t i = 0; i < n; ++i) out[i] = static_cast<uint32_t>(i * 2654435761u);
  return out;
}

// Targets of several blocks: rows of two sources alternate, so that no block is one run; and one that is a plain run.
TEST(Transfer, BlocksArriveInOrderAndWhole) {
  const int64_t rows = 3000, columns = 500;
  const std::vector<uint32_t> a = counting(rows * columns), b = counting(2 * rows * columns);
  const SourceBuffer sources[] = {{"a", DType::f32, bytes_of(a)}, {"b", DType::f32, bytes_of(b)}};
  const Target targets[] = {
      {"interleaved", DType::f32, 2 * rows * columns, {{0, 0, 0, {{rows, columns, 2 * columns}, {columns, 1, 1}}},
                                                       {1, 7, columns, {{rows, columns, 2 * columns}, {columns, 1, 1}}}}},
      {"run", DType::f32, rows * columns, {{1, 11, 0, {{rows * columns, 1, 1}}}}},
      {"transposed", DType::f32, rows * columns, {{0, 0, 0, {{columns, 1, rows}, {rows, columns, 1}}}}},
  };
  for (int64_t threads : {1, 3}) {
    std::vector<std::vector<std::byte>> got(3);
    const auto hashes = run_transfer(sources, targets, [&](size_t target, uint64_t offset, std::span<const std::byte> block, auto*) {
      EXPECT_EQ(offset, got[target].size());
      got[target].insert(got[target].end(), block.begin(), block.end());
    }, {threads, "test"});
    std::vector<uint32_t> interleaved, transposed;
    for (int64_t r = 0; r < rows; ++r) {
      interleaved.insert(interleaved.end(), a.begin() + r * columns, a.begin() + (r + 1) * columns);
      interleaved.insert(interleaved.end(), b.begin() + 7 + r * columns, b.begin() + 7 + (r + 1) * columns);
    }
    for (int64_t c = 0; c < columns; ++c)
      for (int64_t r = 0; r < rows; ++r) transposed.push_back(a[r * columns + c]);
    std::vector<uint32_t> run(b.begin() + 11, b.begin() + 11 + rows * columns);
    size_t i = 0;
    for (const auto* want : {&interleaved, &run, &transposed}) {
      ASSERT_EQ(got[i].size(), want->size() * 4);
      EXPECT_EQ(std::memcmp(got[i].data(), want->data(), got[i].size()), 0) << targets[i].name;
      EXPECT_EQ(hashes[i], content_hash(bytes_of(*want))) << targets[i].name;
      ++i;
    }
  }
}

TEST(Transfer, GapsAndOverlapsAreErrors) {
  const std::vector<uint32_t> a = counting(100);
  const SourceBuffer sources[] = {{"a", DType::f32, bytes_of(a)}};
  const auto nowhere = [](size_t, uint64_t, std::span<const std::byte>, auto*) {};
  for (const std::vector<Copy>& copies : {std::vector<Copy>{}, {{0, 0, 0, {{99, 1, 1}}}}, {{0, 0, 0, {{100, 1, 1}}}, {0, 0, 50, {{2, 1, 1}}}}}) {
    const Target targets[] = {{"t", DType::f32, 100, copies}};
    EXPECT_THROW(run_transfer(sources, targets, nowhere, {1, "test"}), UserError);
  }
}

TEST(Transfer, ASinkThatFailsStopsTheWork) {
  const std::vector<uint32_t> a = counting(1 << 20);
  const SourceBuffer sources[] = {{"a", DType::f32, bytes_of(a)}};
  const std::vector<Target> targets(50, {"t", DType::f32, 1 << 20, {{0, 0, 0, {{1 << 20, 1, 1}}}}});
  std::atomic<int> calls = 0;
  const auto full = [&](size_t, uint64_t, std::span<const std::byte>, auto*) {
    ++calls;
    fail("disk full");
  };
  EXPECT_THROW(run_transfer(sources, targets, full, {2, "test"}), UserError);
  EXPECT_LE(calls, 2);
}

TEST(Transfer, CastsAndOffsets) {
  const std::vector<float> wide = {1.0f, -2.5f, 1.00390625f, 3.4e38f, 1e-40f, NAN};
  std::vector<uint16_t> narrow(wide.size());
  const SourceBuffer from{"w", DType::f32, bytes_of(wide)};
  const Copy all{0, 0, 0, {{static_cast<int64_t>(wide.size()), 1, 1}}};
  run_copy(all, from, reinterpret_cast<std::byte*>(narrow.data()), DType::bf16);
  for (size_t i = 0; i < wide.size(); ++i) EXPECT_EQ(narrow[i], bf16_from_f32(wide[i])) << wide[i];

  const std::vector<uint16_t> norm = {bf16_from_f32(1.5f), bf16_from_f32(0.9921875f)};
  std::vector<float> shifted(2);
  run_copy({0, 0, 0, {{2, 1, 1}}}, {"n", DType::bf16, bytes_of(norm)}, reinterpret_cast<std::byte*>(shifted.data()), DType::f32, -1.0f);
  EXPECT_EQ(shifted, (std::vector<float>{0.5f, -0.0078125f}));
  EXPECT_THROW(run_copy(all, {"w", DType::i32, bytes_of(wide)}, reinterpret_cast<std::byte*>(narrow.data()), DType::bf16), UserError);
}

}  // namespace
}  // namespace ponte
