// Training samples out of tokenised corpora, in one of two named orders.
//  megatron     Megatron Core's GPTDataset / BlendedDataset / MockGPTDataset, token for token for the same seed, split, sequence length and
//  number
//               of requested samples (source: megatron/core/datasets/{gpt_dataset,blended_dataset,blended_megatron_dataset_builder}.py,
//               helpers.cpp).
//  permutation  no index: each corpus is its token stream cut into samples, and sample i of epoch e is a keyed permutation of (seed, e, i).
// Index types, shapes: S = seq_length. All sample() calls are const and thread-safe.
#pragma once
#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace ponte {

struct SampleSource {
  virtual ~SampleSource() = default;
  virtual int64_t size() const = 0;        // samples that can be asked for
  virtual int64_t seq_length() const = 0;  // S
  // tokens[S + 1]: inputs are tokens[0, S), labels tokens[1, S]. loss_mask[S] belongs to the labels: 0 where Megatron masks (padding; EOD
  // inputs with eod_mask_loss; the last label when no extra token is drawn). Padding ids read as 0, as in Megatron.
  virtual void sample(int64_t index, std::span<int32_t> tokens, std::span<float> loss_mask) const = 0;
  // How many of the S + 1 tokens, from the first, are text; what follows is padding.
  virtual int64_t text_tokens([[maybe_unused]] int64_t index) const { return seq_length() + 1; }
  // Equal for equal data and options, wherever the files lie; stored in checkpoints and compared on resume.
  virtual std::string fingerprint() const = 0;
};

enum class SampleOrder { megatron, permutation };
SampleOrder sample_order_from_user(std::string_view name);

enum class Split { train, valid, test };
inline constexpr std::array<Split, 3> kSplits = {Split::train, Split::valid, Split::test};
std::string_view split_name(Split split);

// "9999,8,2" -> [0, 0.9990..), [0.9990.., 0.9998..), [.., 1); nullopt where the share is empty.
using SplitRange = std::optional<std::pair<double, double>>;
using SplitMatrix = std::array<SplitRange, 3>;
SplitMatrix parse_split(std::string_view text);

// Prefixes of .bin/.idx pairs with the share each is drawn in; without weights they follow from the sizes.
struct Blend {
  std::vector<std::string> prefixes;
  std::optional<std::vector<double>> weights;
};
// Megatron's data_path: "prefix..." or "weight prefix weight prefix ...".
Blend parse_blend(const std::vector<std::string>& words);

struct DatasetOptions {
  int64_t seq_length = 0;
  uint32_t random_seed = 1234;
  SampleOrder order = SampleOrder::megatron;
  bool add_extra_token_to_sequence = true;
  bool drop_last_partial_validation_sequence = true;
  bool eod_mask_loss = false;
  double mid_level_dataset_surplus = 0.005;
  int32_t eod_id = -1;     // needed by eod_mask_loss and mock data
  int32_t pad_id = -1;     // -1: no padding id of its own, as Megatron treats a padding id shared with another special token
  int64_t vocab_size = 0;  // needed by mock data
  std::string path_to_cache;  // "": indices are built in memory; else a folder of .npy files that are mapped
};

struct DatasetRequest {
  // All splits from one blend cut by `split`, or each split from its own blend; neither: mock data.
  std::optional<Blend> blend;
  std::array<std::optional<Blend>, 3> blend_per_split;
  std::string split = "9999,8,2";
  std::array<bool, 3> wanted = {true, true, true};  // the others are not built, whatever their data
  // Samples the run will draw; nullopt: one epoch.
  std::array<std::optional<int64_t>, 3> num_samples;
};

using DatasetSplits = std::array<std::unique_ptr<SampleSource>, 3>;  // null where a split is empty
// UserError names the corpus and what is wrong (missing files, ids beyond vocab_size, an empty corpus, a blend that asks for too much).
DatasetSplits build_datasets(const DatasetRequest& request, const DatasetOptions& options);

// reset_position_ids: positions restart after each eod of inputs[S]. out[S].
void position_ids_from_eod(std::span<const int32_t> inputs, int32_t eod_id, std::span<int32_t> out);
// reset_attention_mask: starts of the segments that may attend to themselves only; first 0, then one after each eod, ascending, below S.
std::vector<int32_t> segment_starts(std::span<const int32_t> inputs, int32_t eod_id);

}  // namespace ponte
