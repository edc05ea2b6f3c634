// What a run tells: Megatron's log line, one JSON object per step at full precision, TensorBoard curves, a progress bar.
#pragma once
#include <chrono>
#include <deque>
#include <memory>
#include <optional>

#include "base/progress.h"
#include "format/tfevents.h"
#include "train/train_step.h"

namespace ponte {

struct StepTime {
  double seconds = 0;            // of the whole iteration
  double data_wait_seconds = 0;  // of these, until its batches were there
  int64_t samples = 0;           // sequences of the step, over all ranks
};

class Reporter {
 public:
  // Lines of an earlier run beyond the iteration this one continues from are taken out of the JSON file.
  explicit Reporter(const Run& run);
  ~Reporter();

  // After the update of iteration run.state.train.step.
  void step(const Run& run, const StepResult& result, const StepTime& time);
  void validation(const Run& run, double loss);
  // Writes what is known of the iteration; its validation, if any, has been given.
  void end_step(const Run& run);

 private:
  struct Interval {  // since the last log line
    int64_t steps = 0, skipped = 0, nan = 0, samples = 0;
    double loss = 0, seconds = 0, data_wait_seconds = 0;
  };
  void log_step(const Run& run);
  void write_events(const Run& run);
  void append_throughput(const Run& run, std::vector<Scalar>& out) const;
  void append_run_time(const Run& run, std::vector<Scalar>& out) const;
  void write_json(const Run& run);

  double last_tokens() const { return static_cast<double>(last_time_.samples) * tokens_per_sample_; }
  double last_teraflops() const { return static_cast<double>(last_time_.samples) * flops_per_sample_ / last_time_.seconds / 1e12; }

  double tokens_per_sample_, flops_per_sample_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  int64_t steps_before_;               // of the run, before this process
  std::deque<StepTime> window_;  // the last logger.throughput_window_size steps
  Interval interval_;
  StepResult last_;
  StepTime last_time_;
  double parameter_norm_ = 0;
  std::optional<double> validation_loss_;
  bool pending_ = false;  // a step is not in the JSON file yet
  std::unique_ptr<EventFile> events_;
  int json_ = -1;
  Progress progress_;
};

}  // namespace ponte
