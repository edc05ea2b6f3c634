// Megatron's GPTDataset: which documents, cut where, drawn in which order. Source: megatron/core/datasets/gpt_dataset.py and helpers.cpp.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/checked.h"
#include "base/errors.h"
#include "base/hash.h"
#include "base/log.h"
#include "corpus/numpy_random.h"
#include "corpus/sample_sources.h"

namespace ponte {
namespace {

// build_sample_idx of helpers.cpp. T holds both document places and offsets.
template <class T>
std::vector<T> build_sample_index(const TokenSource& source, const IndexArray& documents, int64_t seq_length, int64_t total_tokens,
                                  bool drop_last, int64_t extra) {
  // With a partial last sequence Megatron rounds through 32-bit floats; so must we.
  const int64_t samples = total_tokens == 0 ? 0
                          : drop_last
                              ? (total_tokens - extra) / seq_length
                              : static_cast<int64_t>(std::ceil(static_cast<float>(total_tokens - extra) / static_cast<float>(seq_length)));
  std::vector<T> out;
  out.reserve(static_cast<size_t>(2 * (samples + 1)));
  out.insert(out.end(), {0, 0});
  int64_t place = 0, offset = 0;
  for (int64_t sample = 1; sample <= samples; ++sample) {
    for (int64_t remaining = seq_length + extra; remaining != 0;) {
      const int64_t left = source.length(documents[place]) - offset;
      remaining -= left;
      if (remaining <= 0) {
        offset += remaining + left - extra;
        remaining = 0;
      } else if (place == documents.size() - 1) {
        offset = source.length(documents[place]) - extra;
        break;
      } else {
        ++place;
        offset = 0;
      }
    }
    out.insert(out.end(), {static_cast<T>(place), static_cast<T>(offset)});
  }
  return out;
}

template <class T>
std::vector<T> build_shuffle_index(int64_t first_part, int64_t total, RandomState& random) {
  std::vector<T> out(static_cast<size_t>(total));
  std::iota(out.begin(), out.end(), T{0});
  random.shuffle(std::span(out).first(static_cast<size_t>(first_part)));
  if (first_part != total) random.shuffle(std::span(out).subspan(static_cast<size_t>(first_part)));
  return out;
}

}  // namespace

void mask_and_unpad(std::span<int32_t> tokens, std::span<float> loss_mask, const DatasetOptions& options, const std::string& origin,
                    int64_t index) {
  const auto S = loss_mask.size();
  for (size_t t = 0; t < S; ++t)
    loss_mask[t] = (options.eod_mask_loss && tokens[t] == options.eod_id) || tokens[t + 1] == options.pad_id ? 0.0f : 1.0f;
  for (int32_t& token : tokens) {
    if (token == options.pad_id) token = 0;
    require(token >= 0 && (options.vocab_size == 0 || token < options.vocab_size), "{}: sample {} holds id {}, but the vocabulary has {}",
            origin, index, token, options.vocab_size);
  }
}

std::string options_fingerprint(const DatasetOptions& o) {
  return format("order={} S={} seed={} extra={} drop={} eod_mask={} eod={} pad={} surplus={}", o.order, o.seq_length, o.random_seed,
                o.add_extra_token_to_sequence, o.drop_last_partial_validation_sequence, o.eod_mask_loss, o.eod_mask_loss ? o.eod_id : -1,
                o.pad_id, o.mid_level_dataset_surplus);
}

GptDataset::GptDataset(SourceRange range, std::optional<int64_t> num_samples, const DatasetOptions& options)
    : range_(std::move(range)), num_samples_(num_samples), options_(options) {
  const std::string description =
      format("GPTDataset {} sequences={}-{} split={} samples={} {}", range_.source->fingerprint(), range_.begin, range_.end,
             split_name(range_.split), num_samples ? *num_samples : int64_t{-1}, options_fingerprint(options));
  fingerprint_ = content_hash(std::as_bytes(std::span(description)));
  if (load_cached()) return;
  build(plan_epochs());
  save_cached();
}

GptDataset::Epochs GptDataset::plan_epochs() const {
  const std::string what = format("{} ({} split)", range_.source->name(), split_name(range_.split));
  require(range_.end - 1 <= std::numeric_limits<int32_t>::max(), "{}: more than 2^31 sequences; the order 'permutation' has no such bound",
          what);
  Epochs epochs;
  for (int64_t i = range_.begin; i < range_.end; ++i) epochs.tokens_per_epoch += range_.source->length(i);
  if (num_samples_.value_or(0) == 0 && epochs.tokens_per_epoch == 0) return epochs;  // an empty split nobody draws from
  require(epochs.tokens_per_epoch > 0,
          "{}: {} samples requested, but sequences {} to {} hold no tokens; the split needs a larger share or the corpus more documents",
          what, num_samples_.value_or(0), range_.begin, range_.end);
  if (!num_samples_) return epochs;
  const int64_t S = options_.seq_length, extra = options_.add_extra_token_to_sequence ? 1 : 0;
  const int64_t requested = checked_add(checked_multiply(*num_samples_, S, what), extra, what);
  epochs.count = std::max<int64_t>(1, (requested + epochs.tokens_per_epoch - 1) / epochs.tokens_per_epoch);
  if (epochs.count == 1) return epochs;
  epochs.samples_before_last = (checked_multiply(epochs.count - 1, epochs.tokens_per_epoch, what) - extra) / S;
  const int64_t from_last = *num_samples_ - epochs.samples_before_last, per_epoch = (epochs.tokens_per_epoch - extra) / S;
  epochs.separate_last = from_last < static_cast<int64_t>(0.80 * static_cast<double>(per_epoch));
  return epochs;
}

void GptDataset::build(const Epochs& epochs) {
  const int64_t documents = range_.end - range_.begin, extra = options_.add_extra_token_to_sequence ? 1 : 0;
  RandomState random(options_.random_seed);
  std::vector<int32_t> order(static_cast<size_t>(checked_multiply(documents, epochs.count, range_.source->name())));
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(range_.begin + static_cast<int64_t>(i) % documents);
  const int64_t together = epochs.separate_last ? documents * (epochs.count - 1) : documents * epochs.count;
  random.shuffle(std::span(order).first(static_cast<size_t>(together)));
  if (epochs.separate_last) random.shuffle(std::span(order).subspan(static_cast<size_t>(together)));
  document_index_ = IndexArray(std::move(order));

  const bool drop_last = range_.split != Split::valid || options_.drop_last_partial_validation_sequence;
  const int64_t total = checked_multiply(epochs.count, epochs.tokens_per_epoch, range_.source->name());
  // A sequence length always fits 32 bits, so only the number of places decides.
  if (document_index_.size() <= std::numeric_limits<int32_t>::max())
    sample_index_ = build_sample_index<int32_t>(*range_.source, document_index_, options_.seq_length, total, drop_last, extra);
  else
    sample_index_ = build_sample_index<int64_t>(*range_.source, document_index_, options_.seq_length, total, drop_last, extra);

  const int64_t samples = sample_index_.size() / 2 - 1, first_part = epochs.separate_last ? epochs.samples_before_last : samples;
  if (samples < std::numeric_limits<uint32_t>::max() - 1) shuffle_index_ = build_shuffle_index<int32_t>(first_part, samples, random);
  else shuffle_index_ = build_shuffle_index<int64_t>(first_part, samples, random);
}

std::string GptDataset::cache_file(std::string_view what) const {
  return (fs::path(options_.path_to_cache) / format("{}-GPTDataset-{}-{}.npy", fingerprint_, split_name(range_.split), what)).string();
}

bool GptDataset::load_cached() {
  if (options_.path_to_cache.empty()) return false;
  auto documents = IndexArray::load(cache_file("document_index")), samples = IndexArray::load(cache_file("sample_index")),
       shuffle = IndexArray::load(cache_file("shuffle_index"));
  if (!documents || !samples || !shuffle) return false;
  require(samples->size() == 2 * (shuffle->size() + 1), "{}: its sizes do not belong together; delete it to have it built again",
          cache_file("sample_index"));
  document_index_ = std::move(*documents);
  sample_index_ = std::move(*samples);
  shuffle_index_ = std::move(*shuffle);
  return true;
}

void GptDataset::save_cached() const {
  if (options_.path_to_cache.empty()) return;
  fs::create_directories(options_.path_to_cache);
  document_index_.save(cache_file("document_index"), 1);
  sample_index_.save(cache_file("sample_index"), 2);
  shuffle_index_.save(cache_file("shuffle_index"), 1);  // last: all three there means all three whole
}

template <class Visit>
void GptDataset::visit_runs(int64_t index, const Visit& visit) const {
  require(index >= 0 && index < size(), "{} ({} split): sample {} of {}", range_.source->name(), split_name(range_.split), index, size());
  const int64_t at = shuffle_index_[index], extra = options_.add_extra_token_to_sequence ? 1 : 0;
  require(at >= 0 && 2 * at + 3 < sample_index_.size(), "{}: damaged index; delete it to have it built again", cache_file("shuffle_index"));
  const int64_t first = sample_index_[2 * at], last = sample_index_[2 * at + 2];
  int64_t room = options_.seq_length + extra;
  for (int64_t place = first; place <= last; ++place) {
    const int64_t document = document_index_[place];
    const int64_t begin = place == first ? sample_index_[2 * at + 1] : 0;
    const int64_t end = place == last ? sample_index_[2 * at + 3] + extra : range_.source->length(document);
    const int64_t count = std::min(std::max<int64_t>(end - begin, 0), room);
    visit(document, begin, count);
    room -= count;
  }
}

int64_t GptDataset::text_tokens(int64_t index) const {
  int64_t total = 0;
  visit_runs(index, [&](int64_t, int64_t, int64_t count) { total += count; });
  return total;
}

void GptDataset::sample(int64_t index, std::span<int32_t> tokens, std::span<float> loss_mask) const {
  PONTE_ASSERT(static_cast<int64_t>(tokens.size()) == options_.seq_length + 1 && static_cast<int64_t>(loss_mask.size()) == options_.seq_length);
  size_t filled = 0;
  visit_runs(index, [&](int64_t document, int64_t begin, int64_t count) {
    range_.source->read(document, begin, tokens.subspan(filled, static_cast<size_t>(count)));
    filled += static_cast<size_t>(count);
  });
  std::fill(tokens.begin() + static_cast<int64_t>(filled), tokens.end(), options_.pad_id);
  mask_and_unpad(tokens, loss_mask, options_, range_.source->name(), index);
}

}  // namespace ponte
