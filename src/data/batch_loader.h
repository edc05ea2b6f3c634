// Micro-batches in Megatron's order, made ahead of time by background threads. The position is the number of samples consumed over all ranks and nothing
// else, so a loader started at that number continues exactly, whatever the number of ranks and of threads. Source: Megatron's MegatronPretrainingSampler.
#pragma once
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "corpus/gpt_dataset.h"
#include "model/model.h"

namespace ponte {

struct MicroBatch {
  Batch batch;
  std::vector<int64_t> sample_ids;  // index in the SampleSource of each row
  double valid_tokens = 0;          // sum of the loss mask
};

class BatchLoader {
 public:
  struct Settings {
    int64_t micro_batch_size = 1;
    int64_t micro_batches_per_step = 1;
    int64_t data_parallel_rank = 0, data_parallel_size = 1;
    int64_t first_sample = 0;         // samples consumed so far, over all ranks
    std::function<int64_t(int64_t consumed)> samples_of_step;  // over all ranks, of a ramp; empty: micro_batches_per_step is the same for all
    bool reset_position_ids = false;  // positions restart after each end of document
    bool reset_attention_mask = false;  // attention stays inside a document
    int32_t eod_id = -1;
    int64_t steps_ahead = 2;          // prepared before they are asked for
    int64_t workers = 1;              // threads that prepare them, each a whole step; more than steps_ahead are never started
    at::Device device = at::kCPU;     // of the model that takes them; for a CUDA card they lie in pinned memory, from which they are copied beside its work
  };
  // `source` must outlive the loader. Nothing is read before the first next_step().
  BatchLoader(const SampleSource& source, const Settings& settings);
  ~BatchLoader();
  BatchLoader(const BatchLoader&) = delete;

  // The micro-batches of this rank's next step, in order. UserError when the source has no further whole step, naming what it has and what was asked;
  // what a thread threw, at the step it was making.
  std::vector<MicroBatch> next_step();
  double last_wait_seconds() const { return last_wait_seconds_; }  // how long the last next_step() waited for data
  int64_t consumed_samples() const { return consumed_; }  // over all ranks, steps handed out so far included
  int64_t samples_of_step(int64_t first_sample) const;

 private:
  struct Slot {
    std::vector<MicroBatch> step;
    std::exception_ptr error;
  };
  MicroBatch make_micro_batch(int64_t first_sample) const;
  std::vector<MicroBatch> make_step(int64_t first_sample) const;
  void prepare();  // of each thread

  const SampleSource& source_;
  Settings settings_;
  int64_t consumed_;               // also the first sample of the step the caller wants next
  double last_wait_seconds_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<int64_t, Slot> ready_;  // by first sample; at most steps_ahead and those being made
  int64_t next_;                   // first sample of the next step to make
  int64_t ahead_ = 0;              // steps from consumed_ to next_
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace ponte
