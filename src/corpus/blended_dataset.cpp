// Megatron's BlendedDataset: at every step the dataset that lags furthest behind its share. Source:
// megatron/core/datasets/blended_dataset.py, helpers.cpp.
#include <algorithm>
#include <cmath>
#include <limits>

#include "base/errors.h"
#include "base/hash.h"
#include "corpus/numpy_random.h"
#include "corpus/sample_sources.h"

namespace ponte {

BlendedDataset::BlendedDataset(std::vector<std::unique_ptr<SampleSource>> datasets, std::vector<double> weights,
                               std::optional<int64_t> size, Split split, const DatasetOptions& options)
    : datasets_(std::move(datasets)) {
  PONTE_ASSERT(!datasets_.empty() && datasets_.size() == weights.size());
  require(datasets_.size() < 32767, "a blend of {} datasets; 32,766 is the most", datasets_.size());
  std::string description =
      format("BlendedDataset {} size={} {}", split_name(split), size ? *size : int64_t{-1}, options_fingerprint(options));
  for (size_t i = 0; i < datasets_.size(); ++i) description += format(" {} {:.17g}", datasets_[i]->fingerprint(), weights[i]);
  fingerprint_ = content_hash(std::as_bytes(std::span(description)));
  if (size) {
    const double sum = numpy_sum(weights);
    for (double& w : weights) w /= sum;
    draw_by_weight(weights, *size);
  } else {
    draw_exactly(weights);
  }
  std::vector<int64_t> drawn(datasets_.size(), 0);
  for (int16_t d : dataset_index_) ++drawn[static_cast<size_t>(d)];
  for (size_t i = 0; i < datasets_.size(); ++i)
    require(drawn[i] <= datasets_[i]->size(),
            "{} blend: asks dataset {} for {} samples, but it was built with {}; raise dataset.mid_level_dataset_surplus (now {})",
            split_name(split), i, drawn[i], datasets_[i]->size(), options.mid_level_dataset_surplus);
}

void BlendedDataset::draw_by_weight(const std::vector<double>& weights, int64_t size) {
  std::vector<int64_t> drawn(weights.size(), 0);
  dataset_index_.reserve(static_cast<size_t>(size));
  dataset_sample_index_.reserve(static_cast<size_t>(size));
  for (int64_t i = 0; i < size; ++i) {
    const double step = std::max(static_cast<double>(i), 1.0);
    size_t most = 0;
    double most_error = std::numeric_limits<double>::lowest();
    for (size_t d = 0; d < weights.size(); ++d) {
      const double error = weights[d] * step - static_cast<double>(drawn[d]);
      if (error > most_error) most_error = error, most = d;
    }
    dataset_index_.push_back(static_cast<int16_t>(most));
    dataset_sample_index_.push_back(drawn[most]++);
  }
}

void BlendedDataset::draw_exactly(const std::vector<double>& counts) {
  double total = 0;
  for (double count : counts) total += count;  // whole numbers: exact in any order
  std::vector<int64_t> drawn(counts.size(), 0);
  for (int64_t i = 0; i < static_cast<int64_t>(total); ++i) {
    const double step = std::max(static_cast<double>(i), 1.0);
    size_t most = 0;
    double most_error = std::numeric_limits<double>::lowest();
    for (size_t d = 0; d < counts.size(); ++d) {
      if (static_cast<double>(drawn[d]) == counts[d]) continue;
      const double error = counts[d] / total * step - static_cast<double>(drawn[d]);
      if (error > most_error) most_error = error, most = d;
    }
    dataset_index_.push_back(static_cast<int16_t>(most));
    dataset_sample_index_.push_back(drawn[most]++);
  }
}

int64_t BlendedDataset::text_tokens(int64_t index) const {
  require(index >= 0 && index < size(), "blend: sample {} of {}", index, size());
  const auto i = static_cast<size_t>(index);
  return datasets_[static_cast<size_t>(dataset_index_[i])]->text_tokens(dataset_sample_index_[i]);
}

void BlendedDataset::sample(int64_t index, std::span<int32_t> tokens, std::span<float> loss_mask) const {
  require(index >= 0 && index < size(), "blend: sample {} of {}", index, size());
  const auto i = static_cast<size_t>(index);
  datasets_[static_cast<size_t>(dataset_index_[i])]->sample(dataset_sample_index_[i], tokens, loss_mask);
}

}  // namespace ponte
