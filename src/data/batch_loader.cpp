#include "data/batch_loader.h"

#include <ATen/ops/empty.h>

#include <algorithm>

#include "base/errors.h"

namespace ponte {
namespace {

// Index of the first token of each token's document, from the starts of the documents.
void fill_document_starts(std::span<const int32_t> starts, std::span<int64_t> out) {
  for (size_t d = 0; d < starts.size(); ++d) {
    const size_t end = d + 1 < starts.size() ? static_cast<size_t>(starts[d + 1]) : out.size();
    std::fill(out.begin() + starts[d], out.begin() + static_cast<int64_t>(end), static_cast<int64_t>(starts[d]));
  }
}

std::span<int64_t> row(const at::Tensor& tensor_BT, int64_t b) {
  const int64_t columns = tensor_BT.size(1);
  return {tensor_BT.data_ptr<int64_t>() + b * columns, static_cast<size_t>(columns)};
}

}  // namespace

BatchLoader::BatchLoader(const SampleSource& source, const Settings& settings)
    : source_(source), settings_(settings), consumed_(settings.first_sample) {
  PONTE_ASSERT(settings.micro_batch_size > 0 && settings.micro_batches_per_step > 0 && settings.steps_ahead > 0);
  PONTE_ASSERT(settings.data_parallel_rank >= 0 && settings.data_parallel_rank < settings.data_parallel_size);
  require(!(settings.reset_position_ids || settings.reset_attention_mask) || settings.eod_id >= 0,
          "dataset.reset_position_ids and dataset.reset_attention_mask need a tokenizer with an end-of-document token, found none");
}

BatchLoader::~BatchLoader() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  if (worker_.joinable()) worker_.join();
}

int64_t BatchLoader::samples_per_step() const {
  return settings_.micro_batch_size * settings_.micro_batches_per_step * settings_.data_parallel_size;
}

MicroBatch BatchLoader::make_micro_batch(int64_t first_sample) const {
  const int64_t rows = settings_.micro_batch_size, length = source_.seq_length();
  MicroBatch out;
  Batch& batch = out.batch;
  batch.tokens_BT = at::empty({rows, length}, at::kLong);
  batch.labels_BT = at::empty({rows, length}, at::kLong);
  batch.loss_mask_BT = at::empty({rows, length}, at::kFloat);
  if (settings_.reset_position_ids) batch.position_ids_BT = at::empty({rows, length}, at::kLong);
  if (settings_.reset_attention_mask) batch.document_starts_BT = at::empty({rows, length}, at::kLong);
  std::vector<int32_t> tokens(static_cast<size_t>(length + 1)), positions(static_cast<size_t>(length));
  const std::span<const int32_t> inputs(tokens.data(), static_cast<size_t>(length));
  for (int64_t b = 0; b < rows; ++b) {
    const std::span<float> mask(batch.loss_mask_BT.data_ptr<float>() + b * length, static_cast<size_t>(length));
    source_.sample(first_sample + b, tokens, mask);
    std::copy(tokens.begin(), tokens.end() - 1, row(batch.tokens_BT, b).begin());
    std::copy(tokens.begin() + 1, tokens.end(), row(batch.labels_BT, b).begin());
    if (settings_.reset_position_ids) {
      position_ids_from_eod(inputs, settings_.eod_id, positions);
      std::copy(positions.begin(), positions.end(), row(batch.position_ids_BT, b).begin());
    }
    if (settings_.reset_attention_mask) fill_document_starts(segment_starts(inputs, settings_.eod_id), row(batch.document_starts_BT, b));
    for (float m : mask) out.valid_tokens += m;
    out.sample_ids.push_back(first_sample + b);
  }
  return out;
}

std::vector<MicroBatch> BatchLoader::make_step(int64_t first_sample) const {
  std::vector<MicroBatch> out;
  const int64_t stride = settings_.micro_batch_size * settings_.data_parallel_size;
  for (int64_t m = 0; m < settings_.micro_batches_per_step; ++m)
    out.push_back(make_micro_batch(first_sample + m * stride + settings_.data_parallel_rank * settings_.micro_batch_size));
  return out;
}

void BatchLoader::prepare() {
  int64_t first = consumed_;  // read before any step is handed out; from here on the thread counts for itself
  try {
    for (;; first += samples_per_step()) {
      const bool enough = first + samples_per_step() <= source_.size();
      std::vector<MicroBatch> step;
      if (enough) step = make_step(first);
      std::unique_lock lock(mutex_);
      if (!enough) {
        exhausted_ = true;
        break;
      }
      changed_.wait(lock, [&] { return stopping_ || static_cast<int64_t>(ready_.size()) < settings_.steps_ahead; });
      if (stopping_) return;
      ready_.push_back(std::move(step));
      changed_.notify_all();
    }
  } catch (...) {
    std::lock_guard lock(mutex_);
    failure_ = std::current_exception();
  }
  changed_.notify_all();
}

std::vector<MicroBatch> BatchLoader::next_step() {
  if (!worker_.joinable()) worker_ = std::thread([this] { prepare(); });
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return !ready_.empty() || failure_ || exhausted_; });
  if (ready_.empty()) {
    if (failure_) std::rethrow_exception(failure_);
    fail("the data set ends at sample {}: a step from sample {} wants {} more", source_.size(), consumed_, samples_per_step());
  }
  std::vector<MicroBatch> out = std::move(ready_.front());
  ready_.pop_front();
  consumed_ += samples_per_step();
  changed_.notify_all();
  return out;
}

}  // namespace ponte
