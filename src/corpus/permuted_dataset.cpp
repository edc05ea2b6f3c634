// The index-free order: opening costs one look at each file, whatever its size, and sample i is a pure function of (seed, epoch, i).
#include <algorithm>
#include <bit>
#include <cmath>

#include "base/errors.h"
#include "base/hash.h"
#include "corpus/sample_sources.h"
#include "format/indexed_dataset.h"

namespace ponte {
namespace {

// The finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators").
uint64_t scramble(uint64_t z) {
  z += 0x9e3779b97f4a7c15;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

}  // namespace

int64_t permute(int64_t i, int64_t n, uint64_t seed, uint64_t epoch) {
  PONTE_ASSERT(i >= 0 && i < n);
  if (n == 1) return 0;
  const int bits = std::bit_width(static_cast<uint64_t>(n - 1)), half = (bits + 1) / 2;
  const uint64_t mask = (uint64_t{1} << half) - 1, key = scramble(scramble(seed) ^ epoch);
  auto x = static_cast<uint64_t>(i);
  do {  // fewer than 4 n values are walked over, so this ends after 4 steps on average
    uint64_t left = x >> half, right = x & mask;
    for (uint64_t round = 0; round < 6; ++round) {
      const uint64_t mixed = left ^ (scramble(key ^ (round << 56) ^ right) & mask);
      left = right;
      right = mixed;
    }
    x = left << half | right;
  } while (x >= static_cast<uint64_t>(n));
  return static_cast<int64_t>(x);
}

std::shared_ptr<const IndexedDataset> open_for_permutation(const std::string& prefix) {
  return std::make_shared<IndexedDataset>(prefix, SequenceModes::absent, IndexedDatasetAccess{.index = Access::random, .tokens = Access::random});
}

PermutedDataset::PermutedDataset(std::shared_ptr<const IndexedDataset> corpus, double begin, double end, Split split,
                                 std::optional<int64_t> num_samples, const DatasetOptions& options)
    : corpus_(std::move(corpus)), options_(options) {
  const IndexedDataset& dataset = *corpus_;
  const int64_t sequences = dataset.sequences(), width = dtype_bytes(dataset.dtype());
  const auto sequence_at = [&](double share) { return static_cast<int64_t>(std::nearbyint(share * static_cast<double>(sequences))); };
  const auto token_at = [&](int64_t sequence) {
    return sequence >= sequences ? dataset.total_tokens() : dataset.sequence_pointer(sequence) / width;
  };
  first_token_ = token_at(sequence_at(begin));
  tokens_ = token_at(sequence_at(end)) - first_token_;
  const int64_t S = options.seq_length, extra = options.add_extra_token_to_sequence ? 1 : 0;
  const bool drop_last = split != Split::valid || options.drop_last_partial_validation_sequence;
  require(tokens_ >= 0 && first_token_ >= 0, "{}: sequence pointers run backwards", idx_path(dataset.prefix()));
  per_epoch_ = std::max<int64_t>(0, drop_last ? (tokens_ - extra) / S : (tokens_ - extra + S - 1) / S);
  require(per_epoch_ > 0 || num_samples.value_or(0) == 0, "{} ({} split): {} tokens, too few for one sample of {}", dataset.prefix(),
          split_name(split), tokens_, S + extra);
  size_ = num_samples.value_or(per_epoch_);
  const std::string description = format("PermutedDataset {} tokens={}+{} split={} {}", dataset.fingerprint(), first_token_, tokens_,
                                         split_name(split), options_fingerprint(options));
  fingerprint_ = content_hash(std::as_bytes(std::span(description)));
}

int64_t PermutedDataset::place_of(int64_t index) const {
  require(index >= 0 && per_epoch_ > 0, "{}: sample {} of {} an epoch", corpus_->prefix(), index, per_epoch_);
  return permute(index % per_epoch_, per_epoch_, options_.random_seed, static_cast<uint64_t>(index / per_epoch_)) * options_.seq_length;
}

int64_t PermutedDataset::text_tokens(int64_t index) const {
  return std::min(options_.seq_length + (options_.add_extra_token_to_sequence ? 1 : 0), tokens_ - place_of(index));
}

void PermutedDataset::sample(int64_t index, std::span<int32_t> tokens, std::span<float> loss_mask) const {
  PONTE_ASSERT(static_cast<int64_t>(tokens.size()) == options_.seq_length + 1 && static_cast<int64_t>(loss_mask.size()) == options_.seq_length);
  const auto count = static_cast<size_t>(text_tokens(index));
  corpus_->read_flat(first_token_ + place_of(index), tokens.first(count));
  std::fill(tokens.begin() + static_cast<int64_t>(count), tokens.end(), options_.pad_id);
  mask_and_unpad(tokens, loss_mask, options_, corpus_->prefix(), index);
}

PermutedBlend::PermutedBlend(std::vector<std::unique_ptr<SampleSource>> datasets, std::vector<double> weights, int64_t size)
    : datasets_(std::move(datasets)), weights_(std::move(weights)), size_(size) {
  PONTE_ASSERT(!datasets_.empty() && datasets_.size() == weights_.size());
  cumulative_.push_back(0);
  std::string description = "PermutedBlend";
  for (size_t i = 0; i < datasets_.size(); ++i) {
    cumulative_.push_back(cumulative_.back() + weights_[i]);
    description += format(" {} {:.17g}", datasets_[i]->fingerprint(), weights_[i]);
  }
  fingerprint_ = content_hash(std::as_bytes(std::span(description)));
}

std::pair<size_t, int64_t> PermutedBlend::locate(int64_t index) const {
  size_t begin = 0, end = datasets_.size();
  while (end - begin > 1) {
    const size_t middle = begin + (end - begin) / 2;
    // A share as a fraction of 2^62 keeps the arithmetic exact for any index.
    const double share = (cumulative_[middle] - cumulative_[begin]) / (cumulative_[end] - cumulative_[begin]);
    const auto numerator = static_cast<unsigned __int128>(std::ldexp(share, 62));
    const auto left_before = static_cast<int64_t>(numerator * static_cast<uint64_t>(index) >> 62);
    const auto left_after = static_cast<int64_t>(numerator * (static_cast<uint64_t>(index) + 1) >> 62);
    if (left_after > left_before) end = middle, index = left_before;
    else begin = middle, index -= left_before;
  }
  return {begin, index};
}

int64_t PermutedBlend::text_tokens(int64_t index) const {
  require(index >= 0, "blend: sample {}", index);
  const auto [dataset, local] = locate(index);
  return datasets_[dataset]->text_tokens(local);
}

void PermutedBlend::sample(int64_t index, std::span<int32_t> tokens, std::span<float> loss_mask) const {
  require(index >= 0, "blend: sample {}", index);
  const auto [dataset, local] = locate(index);
  datasets_[dataset]->sample(local, tokens, loss_mask);
}

}  // namespace ponte
