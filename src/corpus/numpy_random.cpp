#include "corpus/numpy_random.h"

#include <array>

namespace ponte {
namespace {

using Wide = unsigned __int128;

// SeedSequence(entropy).generate_state(8, uint32): a pool of four words, mixed with fixed multipliers.
std::array<uint32_t, 8> seed_sequence(uint32_t entropy) {
  uint32_t constant = 0x43b0d7e5;
  const auto hash = [&](uint32_t value) {
    value ^= constant;
    constant *= 0x931e8875;
    value *= constant;
    return value ^ (value >> 16);
  };
  const auto mix = [](uint32_t x, uint32_t y) {
    const uint32_t value = 0xca01f9dd * x - 0x4973f715 * y;
    return value ^ (value >> 16);
  };
  std::array<uint32_t, 4> pool;
  for (size_t i = 0; i < 4; ++i) pool[i] = hash(i == 0 ? entropy : 0);
  for (size_t from = 0; from < 4; ++from)
    for (size_t to = 0; to < 4; ++to)
      if (from != to) pool[to] = mix(pool[to], hash(pool[from]));
  std::array<uint32_t, 8> state;
  uint32_t out = 0x8b51f9dd;
  for (size_t i = 0; i < state.size(); ++i) {
    uint32_t value = pool[i % 4] ^ out;
    out *= 0x58f38ded;
    value *= out;
    state[i] = value ^ (value >> 16);
  }
  return state;
}

// PCG XSL-RR 128/64; 32-bit draws take the low half first and keep the high one.
class Pcg64 {
 public:
  explicit Pcg64(uint32_t seed) {
    const auto words = seed_sequence(seed);
    const auto word64 = [&](size_t i) { return words[2 * i] | static_cast<uint64_t>(words[2 * i + 1]) << 32; };
    const Wide initial = static_cast<Wide>(word64(0)) << 64 | word64(1), sequence = static_cast<Wide>(word64(2)) << 64 | word64(3);
    increment_ = sequence << 1 | 1;
    step();
    state_ += initial;
    step();
  }
  uint32_t next32() {
    if (std::exchange(has_half_, !has_half_)) return half_;
    step();
    const auto folded = static_cast<uint64_t>(state_ >> 64) ^ static_cast<uint64_t>(state_);
    const auto rotation = static_cast<unsigned>(state_ >> 122);
    const uint64_t value = folded >> rotation | folded << (-rotation & 63);
    half_ = static_cast<uint32_t>(value >> 32);
    return static_cast<uint32_t>(value);
  }

 private:
  void step() {
    constexpr Wide multiplier = static_cast<Wide>(2549297995355413924ULL) << 64 | 4865540595714422341ULL;
    state_ = state_ * multiplier + increment_;
  }
  Wide state_ = 0, increment_ = 0;
  uint32_t half_ = 0;
  bool has_half_ = false;
};

}  // namespace

uint64_t RandomState::interval(uint64_t max) {
  if (max == 0) return 0;
  const uint64_t mask = ~0ULL >> __builtin_clzll(max);
  for (;;) {
    uint64_t value = next32();
    if (max > 0xFFFFFFFF) value = value << 32 | next32();
    if ((value & mask) <= max) return value & mask;
  }
}

std::vector<int32_t> default_rng_integers(uint32_t seed, int32_t low, int32_t high, int64_t size) {
  Pcg64 generator(seed);
  const auto values = static_cast<uint32_t>(high - low);  // how many there are
  const uint32_t threshold = -values % values;
  std::vector<int32_t> out(static_cast<size_t>(size));
  for (int32_t& value : out) {
    uint64_t product = static_cast<uint64_t>(generator.next32()) * values;
    while (static_cast<uint32_t>(product) < threshold) product = static_cast<uint64_t>(generator.next32()) * values;
    value = low + static_cast<int32_t>(product >> 32);
  }
  return out;
}

double numpy_sum(std::span<const double> values) {
  const size_t n = values.size();
  if (n < 8) {
    double sum = 0;
    for (double v : values) sum += v;
    return sum;
  }
  if (n > 128) {
    const size_t half = n / 2 - n / 2 % 8;
    return numpy_sum(values.first(half)) + numpy_sum(values.subspan(half));
  }
  double r[8];
  for (size_t j = 0; j < 8; ++j) r[j] = values[j];
  size_t i = 8;
  for (; i < n - n % 8; i += 8)
    for (size_t j = 0; j < 8; ++j) r[j] += values[i + j];
  double sum = ((r[0] + r[1]) + (r[2] + r[3])) + ((r[4] + r[5]) + (r[6] + r[7]));
  for (; i < n; ++i) sum += values[i];
  return sum;
}

}  // namespace ponte
