// The kinds of sample source build_datasets() puts together.
#pragma once
#include "corpus/gpt_dataset.h"
#include "corpus/index_array.h"
#include "corpus/token_source.h"

namespace ponte {

class IndexedDataset;

// Samples of the sequences [begin, end) of one corpus.
struct SourceRange {
  std::shared_ptr<const TokenSource> source;
  int64_t begin = 0, end = 0;
  Split split = Split::train;
};

// tokens[S + 1] holds text with `pad` where there is none: sets the mask, then turns padding into 0. Ids at or above options.vocab_size
// (when that is given) are a UserError naming `origin`.
void mask_and_unpad(std::span<int32_t> tokens, std::span<float> loss_mask, const DatasetOptions& options, const std::string& origin,
                    int64_t index);

std::string options_fingerprint(const DatasetOptions& options);

// Megatron's GPTDataset. Shapes: document_index[documents x epochs], sample_index[samples + 1, 2] of (place in document_index, offset),
// shuffle_index[samples].
class GptDataset : public SampleSource {
 public:
  GptDataset(SourceRange range, std::optional<int64_t> num_samples, const DatasetOptions& options);
  int64_t size() const override { return shuffle_index_.size(); }
  int64_t seq_length() const override { return options_.seq_length; }
  void sample(int64_t index, std::span<int32_t> tokens, std::span<float> loss_mask) const override;
  int64_t text_tokens(int64_t index) const override;
  std::string fingerprint() const override { return fingerprint_; }

 private:
  struct Epochs {
    int64_t tokens_per_epoch = 0, count = 1;
    int64_t samples_before_last = 0;  // of all epochs but the last
    bool separate_last = false;       // the last is shuffled on its own, because less than 80 % of it is drawn
  };
  Epochs plan_epochs() const;
  void build(const Epochs& epochs);
  bool load_cached();
  void save_cached() const;
  std::string cache_file(std::string_view what) const;
  // A sample's tokens as runs of sequences: calls visit(sequence, offset, count) until S + 1 (S without an extra token) are there or the text ends.
  template <class Visit>
  void visit_runs(int64_t index, const Visit& visit) const;

  SourceRange range_;
  std::optional<int64_t> num_samples_;
  DatasetOptions options_;
  std::string fingerprint_;
  IndexArray document_index_, sample_index_, shuffle_index_;
};

// Megatron's BlendedDataset. `size` nullopt: weights are sample counts and every dataset is drawn exactly so often.
class BlendedDataset : public SampleSource {
 public:
  BlendedDataset(std::vector<std::unique_ptr<SampleSource>> datasets, std::vector<double> weights, std::optional<int64_t> size, Split split,
                 const DatasetOptions& options);
  int64_t size() const override { return static_cast<int64_t>(dataset_index_.size()); }
  int64_t seq_length() const override { return datasets_.front()->seq_length(); }
  void sample(int64_t index, std::span<int32_t> tokens, std::span<float> loss_mask) const override;
  int64_t text_tokens(int64_t index) const override;
  std::string fingerprint() const override { return fingerprint_; }

 private:
  void draw_by_weight(const std::vector<double>& weights, int64_t size);
  void draw_exactly(const std::vector<double>& counts);
  std::vector<std::unique_ptr<SampleSource>> datasets_;
  std::vector<int16_t> dataset_index_;
  std::vector<int64_t> dataset_sample_index_;
  std::string fingerprint_;
};

// A corpus for PermutedDataset: a few pages of it are read, whatever its size.
std::shared_ptr<const IndexedDataset> open_for_permutation(const std::string& prefix);

// Order `permutation`, one corpus: its token stream is cut into samples; epoch e visits them in the order a Feistel network keyed by (seed,
// e) gives. Any index >= 0 can be asked for; size() is what was requested, else one epoch.
class PermutedDataset : public SampleSource {
 public:
  PermutedDataset(std::shared_ptr<const IndexedDataset> corpus, double begin, double end, Split split, std::optional<int64_t> num_samples,
                  const DatasetOptions& options);
  int64_t size() const override { return size_; }
  int64_t samples_per_epoch() const { return per_epoch_; }
  int64_t seq_length() const override { return options_.seq_length; }
  void sample(int64_t index, std::span<int32_t> tokens, std::span<float> loss_mask) const override;
  int64_t text_tokens(int64_t index) const override;
  std::string fingerprint() const override { return fingerprint_; }

 private:
  int64_t place_of(int64_t index) const;  // its first token, counted from first_token_
  std::shared_ptr<const IndexedDataset> corpus_;  // shared by the splits, so that each file is opened once
  DatasetOptions options_;
  int64_t first_token_ = 0, tokens_ = 0, per_epoch_ = 0, size_ = 0;
  std::string fingerprint_;
};

// Order `permutation`, several corpora: a binary tree over the weights; at each node of share w, sample i goes left exactly when
// floor((i + 1) w) > floor(i w), so every corpus gets its share of any prefix to within the depth of the tree, and nothing is stored.
class PermutedBlend : public SampleSource {
 public:
  PermutedBlend(std::vector<std::unique_ptr<SampleSource>> datasets, std::vector<double> weights, int64_t size);
  int64_t size() const override { return size_; }
  int64_t seq_length() const override { return datasets_.front()->seq_length(); }
  void sample(int64_t index, std::span<int32_t> tokens, std::span<float> loss_mask) const override;
  int64_t text_tokens(int64_t index) const override;
  std::string fingerprint() const override { return fingerprint_; }
  // Which dataset position `index` draws from, and which of its samples.
  std::pair<size_t, int64_t> locate(int64_t index) const;

 private:
  std::vector<std::unique_ptr<SampleSource>> datasets_;
  std::vector<double> weights_, cumulative_;
  int64_t size_;
  std::string fingerprint_;
};

// A keyed permutation of [0, n): a balanced Feistel network over the next even number of bits, walked until it lands below n.
int64_t permute(int64_t i, int64_t n, uint64_t seed, uint64_t epoch);

}  // namespace ponte
