// Selection without sorting the vocabulary: the most likely tokens are cut off in growing blocks until top-k or top-p is satisfied.
#include "generate/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/errors.h"

namespace ponte {
namespace {

// splitmix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

// Uniform in [0, 1).
double uniform(uint64_t seed, uint64_t sequence, uint64_t step) {
  return static_cast<double>(mix(mix(mix(seed) ^ sequence) ^ step) >> 11) * 0x1.0p-53;
}

bool more_likely(const Candidate& a, const Candidate& b) { return a.logit != b.logit ? a.logit > b.logit : a.id < b.id; }

// Orders the first `count` of `all` and leaves the rest behind them.
void order_first(std::vector<Candidate>& all, size_t ordered, size_t count) {
  const auto from = all.begin() + static_cast<std::ptrdiff_t>(ordered), middle = all.begin() + static_cast<std::ptrdiff_t>(count);
  if (count < all.size()) std::nth_element(from, middle, all.end(), more_likely);
  std::sort(from, middle, more_likely);
}

void keep_top_k(std::vector<Candidate>& all, int64_t k) {
  if (k <= 0 || static_cast<size_t>(k) >= all.size()) return;
  order_first(all, 0, static_cast<size_t>(k));
  const float least = all[static_cast<size_t>(k) - 1].logit;
  auto tie_end = std::partition(all.begin() + k, all.end(), [least](const Candidate& c) { return c.logit >= least; });
  all.erase(tie_end, all.end());
}

void set_probabilities(std::vector<Candidate>& all) {
  const float largest = std::max_element(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.logit < b.logit; })->logit;
  double sum = 0;
  for (Candidate& c : all) sum += c.probability = std::exp(static_cast<double>(c.logit) - largest);
  for (Candidate& c : all) c.probability /= sum;
}

// A token stays while the tokens before it sum to less than p; the first always stays.
void keep_top_p(std::vector<Candidate>& all, double p) {
  double sum = 0;
  for (size_t ordered = 0, block = 256; ordered < all.size(); block *= 8) {
    const size_t count = std::min(all.size(), ordered + block);
    order_first(all, ordered, count);
    for (; ordered < count; ++ordered) {
      if (sum >= p && ordered > 0) return all.resize(ordered);
      sum += all[ordered].probability;
    }
  }
}

void keep_min_p(std::vector<Candidate>& all, double p) {
  if (p <= 0) return;
  double largest = 0;
  for (const Candidate& c : all) largest = std::max(largest, c.probability);
  std::erase_if(all, [least = p * largest](const Candidate& c) { return c.probability < least; });
}

constexpr double kGreedyBelow = 1e-5;  // logits divided by less may overflow, and the likeliest token has all the probability anyway
constexpr const char* kNoChoice = "the model computes no usable logits (all are NaN or minus infinity): are its weights finite, and --torch-dtype wide enough?";

}  // namespace

void check_sampling(const SamplingOptions& options) {
  require(options.temperature >= 0 && std::isfinite(options.temperature), "temperature: {} found, a number from 0 (greedy) up wanted",
          options.temperature);
  require(options.top_k >= 0, "top_k: {} found, 0 (all tokens) or more wanted", options.top_k);
  require(options.top_p > 0 && options.top_p <= 1, "top_p: {} found, a number above 0 and up to 1 wanted", options.top_p);
  require(options.min_p >= 0 && options.min_p <= 1, "min_p: {} found, a number from 0 to 1 wanted", options.min_p);
}

std::vector<Candidate> candidates(std::span<const float> logits, const SamplingOptions& options) {
  std::vector<Candidate> all;
  all.reserve(logits.size());
  const float scale = static_cast<float>(options.temperature);
  for (size_t i = 0; i < logits.size(); ++i) {
    const float logit = logits[i] / scale;
    if (logit > -std::numeric_limits<float>::infinity()) all.push_back({static_cast<int32_t>(i), logit, 0.0});  // NaN drops out too
  }
  require(!all.empty(), kNoChoice);
  keep_top_k(all, options.top_k);
  set_probabilities(all);
  if (options.top_p < 1) keep_top_p(all, options.top_p);
  keep_min_p(all, options.min_p);
  const auto by_id = [](const Candidate& a, const Candidate& b) { return a.id < b.id; };
  if (!std::is_sorted(all.begin(), all.end(), by_id)) std::sort(all.begin(), all.end(), by_id);
  set_probabilities(all);
  return all;
}

int32_t most_likely(std::span<const float> logits) {
  size_t best = logits.size();
  for (size_t i = 0; i < logits.size(); ++i)
    if (!std::isnan(logits[i]) && (best == logits.size() || logits[i] > logits[best])) best = i;
  require(best < logits.size(), kNoChoice);
  return static_cast<int32_t>(best);
}

int32_t next_token(std::span<const float> logits, const SamplingOptions& options, uint64_t sequence, uint64_t step) {
  if (options.temperature < kGreedyBelow) return most_likely(logits);
  const std::vector<Candidate> kept = candidates(logits, options);
  double left = uniform(options.seed, sequence, step);
  for (const Candidate& c : kept)
    if ((left -= c.probability) < 0) return c.id;
  return kept.back().id;
}

}  // namespace ponte
