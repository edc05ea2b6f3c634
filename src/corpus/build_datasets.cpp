// From a request to the three splits. Source of the rules: megatron/core/datasets/blended_megatron_dataset_builder.py.
#include <cmath>

#include "base/errors.h"
#include "corpus/numpy_random.h"
#include "corpus/sample_sources.h"

namespace ponte {
namespace {

using Sizes = std::array<std::optional<int64_t>, 3>;
constexpr Sizes kOneEpoch = {std::nullopt, std::nullopt, std::nullopt};

// Every split of one corpus.
DatasetSplits split_corpus(const std::string& prefix, const SplitMatrix& matrix, const Sizes& sizes, const DatasetOptions& options) {
  DatasetSplits out;
  std::shared_ptr<const TokenSource> source;
  std::shared_ptr<const IndexedDataset> corpus;
  for (Split split : kSplits) {
    const auto i = static_cast<size_t>(split);
    if (!matrix[i]) continue;
    const auto [begin, end] = *matrix[i];
    if (options.order == SampleOrder::permutation) {
      if (!corpus) corpus = open_for_permutation(prefix);
      out[i] = std::make_unique<PermutedDataset>(corpus, begin, end, split, sizes[i], options);
      continue;
    }
    if (!source) source = open_token_source(prefix);
    const auto at = [&](double share) { return static_cast<int64_t>(std::nearbyint(share * static_cast<double>(source->sequences()))); };
    out[i] = std::make_unique<GptDataset>(SourceRange{source, at(begin), at(end), split}, sizes[i], options);
  }
  return out;
}

DatasetSplits mock_splits(const std::array<bool, 3>& wanted, const Sizes& sizes, const DatasetOptions& options) {
  const auto source = mock_token_source(options.vocab_size, options.eod_id);
  const SplitMatrix thirds = parse_split("1,1,1");
  DatasetSplits out;
  for (Split split : kSplits) {
    const auto i = static_cast<size_t>(split);
    if (!wanted[i]) continue;
    const auto at = [&](double share) { return static_cast<int64_t>(std::nearbyint(share * static_cast<double>(source->sequences()))); };
    out[i] = std::make_unique<GptDataset>(SourceRange{source, at(thirds[i]->first), at(thirds[i]->second), split}, sizes[i], options);
  }
  return out;
}

std::vector<double> normalized(std::vector<double> weights) {
  const double sum = numpy_sum(weights);
  for (double& w : weights) w /= sum;
  return weights;
}

// How many samples of one dataset a blend may draw: its share, rounded up, and a margin.
int64_t share_of(int64_t total, double weight, double surplus) {
  return static_cast<int64_t>(std::ceil(std::ceil(static_cast<double>(total) * weight) * (1 + surplus)));
}

std::unique_ptr<SampleSource> blend_one_split(Split split, std::vector<std::unique_ptr<SampleSource>> datasets, const Blend& blend,
                                              const std::optional<std::vector<double>>& weights, const std::optional<int64_t>& requested,
                                              const DatasetOptions& options) {
  std::vector<double> lengths;
  double total = 0;
  for (size_t d = 0; d < datasets.size(); ++d) {
    lengths.push_back(static_cast<double>(datasets[d]->size()));
    total += lengths.back();
    require(lengths.back() > 0, "{} ({} split): no samples", blend.prefixes[d], split_name(split));
  }
  if (options.order == SampleOrder::permutation)
    return std::make_unique<PermutedBlend>(std::move(datasets), weights.value_or(lengths), requested.value_or(static_cast<int64_t>(total)));
  if (!weights) {
    const auto size = requested ? std::optional(std::min(*requested, static_cast<int64_t>(total))) : std::nullopt;
    return std::make_unique<BlendedDataset>(std::move(datasets), lengths, size, split, options);
  }
  int64_t size = 0;
  for (double w : *weights) size += share_of(*requested, w, 0.0);
  return std::make_unique<BlendedDataset>(std::move(datasets), *weights, size, split, options);
}

DatasetSplits blend_splits(const Blend& blend, const SplitMatrix& matrix, const Sizes& sizes, const DatasetOptions& options) {
  const auto weights = blend.weights ? std::optional(normalized(*blend.weights)) : std::nullopt;
  std::array<std::vector<std::unique_ptr<SampleSource>>, 3> by_split;
  for (size_t d = 0; d < blend.prefixes.size(); ++d) {
    Sizes wanted = kOneEpoch;
    for (size_t i = 0; weights && i < 3; ++i)
      if (sizes[i]) wanted[i] = share_of(*sizes[i], (*weights)[d], options.mid_level_dataset_surplus);
    if (options.order == SampleOrder::permutation)
      wanted = kOneEpoch;  // any index can be drawn; sizes serve as weights where none are given
    auto splits = split_corpus(blend.prefixes[d], matrix, wanted, options);
    for (size_t i = 0; i < 3; ++i)
      if (splits[i]) by_split[i].push_back(std::move(splits[i]));
  }
  DatasetSplits out;
  for (Split split : kSplits) {
    const auto i = static_cast<size_t>(split);
    if (by_split[i].empty()) continue;
    require(!weights || sizes[i] || options.order == SampleOrder::permutation,
            "{} split: a blend with weights needs the number of samples to draw", split_name(split));
    out[i] = blend_one_split(split, std::move(by_split[i]), blend, weights, sizes[i], options);
  }
  return out;
}

}  // namespace

DatasetSplits build_datasets(const DatasetRequest& request, const DatasetOptions& options) {
  require(options.seq_length >= 1, "dataset: sequence length {}, wanted at least 1", options.seq_length);
  for (const auto& size : request.num_samples) require(!size || *size >= 0, "dataset: {} samples requested", *size);
  bool per_split = false;
  for (const auto& blend : request.blend_per_split) per_split |= blend.has_value();
  require(!per_split || !request.blend, "dataset: both one blend and a blend per split are given; wanted one of the two");
  if (!per_split && !request.blend) return mock_splits(request.wanted, request.num_samples, options);
  if (request.blend) {
    SplitMatrix matrix = parse_split(request.split);
    for (size_t i = 0; i < 3; ++i)
      if (!request.wanted[i]) matrix[i].reset();
    if (request.blend->prefixes.size() == 1 && !request.blend->weights)
      return split_corpus(request.blend->prefixes[0], matrix, request.num_samples, options);
    return blend_splits(*request.blend, matrix, request.num_samples, options);
  }
  DatasetSplits out;
  for (size_t i = 0; i < 3; ++i) {
    const auto& blend = request.blend_per_split[i];
    if (!blend || !request.wanted[i]) continue;
    SplitMatrix whole;
    whole[i] = {0.0, 1.0};
    auto splits = blend->prefixes.size() == 1 ? split_corpus(blend->prefixes[0], whole, request.num_samples, options)
                                              : blend_splits(*blend, whole, request.num_samples, options);
    out[i] = std::move(splits[i]);
  }
  return out;
}

}  // namespace ponte
