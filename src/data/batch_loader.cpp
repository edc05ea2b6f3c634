#include "data/batch_loader.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <chrono>

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
    : source_(source), settings_(settings), consumed_(settings.first_sample), next_(settings.first_sample) {
  PONTE_ASSERT(settings.micro_batch_size > 0 && settings.micro_batches_per_step > 0 && settings.steps_ahead > 0 && settings.workers > 0);
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
  for (std::thread& thread : threads_) thread.join();
}

int64_t BatchLoader::samples_of_step(int64_t first_sample) const {
  if (settings_.samples_of_step) return settings_.samples_of_step(first_sample);
  return settings_.micro_batch_size * settings_.micro_batches_per_step * settings_.data_parallel_size;
}

MicroBatch BatchLoader::make_micro_batch(int64_t first_sample) const {
  const int64_t rows = settings_.micro_batch_size, length = source_.seq_length();
  const auto empty = [&](at::ScalarType type) { return at::empty({rows, length}, at::TensorOptions(type).pinned_memory(settings_.device.is_cuda())); };
  MicroBatch out;
  Batch& batch = out.batch;
  batch.tokens_BT = empty(at::kLong);
  batch.labels_BT = empty(at::kLong);
  batch.loss_mask_BT = empty(at::kFloat);
  if (settings_.reset_position_ids) batch.position_ids_BT = empty(at::kLong);
  if (settings_.reset_attention_mask) batch.document_starts_BT = empty(at::kLong);
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
    if (const int64_t text = source_.text_tokens(first_sample + b); text < length) {
      if (!batch.padding_BT.defined()) batch.padding_BT = empty(at::kBool).zero_();
      batch.padding_BT[b].slice(0, text).fill_(true);
    }
    for (float m : mask) out.valid_tokens += m;
    out.sample_ids.push_back(first_sample + b);
  }
  return out;
}

std::vector<MicroBatch> BatchLoader::make_step(int64_t first_sample) const {
  std::vector<MicroBatch> out;
  const int64_t stride = settings_.micro_batch_size * settings_.data_parallel_size;
  const int64_t count = samples_of_step(first_sample) / stride;
  PONTE_ASSERT(count > 0 && count * stride == samples_of_step(first_sample));
  for (int64_t m = 0; m < count; ++m)
    out.push_back(make_micro_batch(first_sample + m * stride + settings_.data_parallel_rank * settings_.micro_batch_size));
  return out;
}

void BatchLoader::prepare() {
  for (std::unique_lock lock(mutex_);;) {
    changed_.wait(lock, [&] { return stopping_ || ahead_ < settings_.steps_ahead; });
    const int64_t first = next_, samples = samples_of_step(first);
    if (stopping_ || first + samples > source_.size()) return;
    next_ += samples;
    ++ahead_;
    lock.unlock();
    Slot slot;
    try {
      slot.step = make_step(first);
    } catch (...) {
      slot.error = std::current_exception();
    }
    lock.lock();
    ready_.emplace(first, std::move(slot));
    changed_.notify_all();
  }
}

std::vector<MicroBatch> BatchLoader::next_step() {
  const auto start = std::chrono::steady_clock::now();
  if (threads_.empty())
    for (int64_t i = 0; i < std::min(settings_.workers, settings_.steps_ahead); ++i) threads_.emplace_back([this] { prepare(); });
  const int64_t samples = samples_of_step(consumed_);
  require(consumed_ + samples <= source_.size(), "the data set ends at sample {}: a step from sample {} wants {} more", source_.size(), consumed_, samples);
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return ready_.contains(consumed_); });
  const auto it = ready_.find(consumed_);
  if (it->second.error) std::rethrow_exception(it->second.error);  // and again, should it be asked for again
  std::vector<MicroBatch> step = std::move(it->second.step);
  ready_.erase(it);
  consumed_ += samples;
  --ahead_;
  lock.unlock();
  changed_.notify_all();
  last_wait_seconds_ = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return step;
}

}  // namespace ponte
