// The two numpy generators Megatron's datasets are built from, bit for bit.
// Sources: numpy/random/mtrand.pyx (RandomState.shuffle, random_interval), numpy/random/bit_generator.pyx (SeedSequence), src/pcg64, and
// src/distributions (bounded Lemire integers).
#pragma once
#include <cstdint>
#include <random>
#include <span>
#include <utility>
#include <vector>

namespace ponte {

// numpy.random.RandomState(seed): MT19937.
class RandomState {
 public:
  explicit RandomState(uint32_t seed) : generator_(seed) {}
  // RandomState.shuffle of a one-dimensional array.
  template <class T>
  void shuffle(std::span<T> values) {
    for (uint64_t i = values.size(); i-- > 1;) std::swap(values[i], values[interval(i)]);
  }

 private:
  uint64_t interval(uint64_t max);  // uniform in [0, max] by masked rejection
  uint32_t next32() { return static_cast<uint32_t>(generator_()); }
  std::mt19937 generator_;
};

// numpy.random.default_rng(seed).integers(low, high, size, dtype=int32): PCG64 seeded through SeedSequence.
std::vector<int32_t> default_rng_integers(uint32_t seed, int32_t low, int32_t high, int64_t size);

// numpy.sum of float64: pairwise, so that weights normalise to the same bits.
double numpy_sum(std::span<const double> values);

}  // namespace ponte
