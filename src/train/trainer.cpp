#include "train/trainer.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "base/log.h"
#include "checkpoint/layout.h"
#include "checkpoint/save.h"
#include "config/batch_sizes.h"
#include "train/reporter.h"
#include "train/stop_signal.h"
#include "train/train_step.h"

namespace ponte {
namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

bool due(int64_t iteration, int64_t interval) { return interval > 0 && iteration % interval == 0; }

class Trainer {
 public:
  explicit Trainer(Run& run)
      : run_(run),
        stop_(run.config.train.exit_signal_handler ? StopSignal::Handle::terminate_and_interrupt : StopSignal::Handle::none),
        batch_sizes_(run.config.train, run.groups.data->size()), train_loader_(*run.data[0], training_settings(run)),
        reporter_(run.speaks() ? std::make_unique<Reporter>(run) : nullptr) {
    const ValidationConfig& v = run.config.validation;
    if (v.eval_iters > 0 && v.eval_interval > 0 && run.data[1])
      valid_loader_.emplace(*run.data[1], loader_settings(v.eval_micro_batch_size, v.eval_global_batch_size, first_valid_sample(run)));
  }

  void train() {
    const TrainConfig& config = run_.config.train;
    if (run_.config.validation.skip_train) return do_evaluation();
    while (run_.state.train.step < config.train_iters && !asked_to_stop()) {
      save_before_growing();
      do_step();
      publish(Wait::no);
      if (due(run_.state.train.step, run_.config.validation.eval_interval) || run_.state.train.step == config.train_iters) do_evaluation();
      if (reporter_) reporter_->end_step(run_);
      if (due(run_.state.train.step, run_.config.checkpoint.save_interval)) save();
      if (due(run_.state.train.step, config.exit_interval)) break;
    }
    if (saved_at_ != run_.state.train.step) save();
    publish(Wait::yes);
    if (run_.save_lock) {
      remove_old(run_.state.best.iteration);  // also what a run killed between its last save and the removal left
      remove_launch_mark(run_.config.checkpoint.save);
    }
    run_.ranks->phase("ending");
    run_.ranks->world().barrier();
    if (!run_.speaks()) return;
    if (run_.state.train.step < config.train_iters) log_info("stopped after iteration {} of {}: {}", run_.state.train.step, config.train_iters, reason());
    else if (run_.state.train.step == started_at_) log_info("nothing to do: the run had reached iteration {} of {}", started_at_, config.train_iters);
  }

 private:
  // An evaluation without training always sees the same samples; those of a run follow one another.
  static int64_t first_valid_sample(const Run& run) { return run.config.validation.skip_train ? 0 : run.state.train.consumed_valid_samples; }

  BatchLoader::Settings training_settings(const Run& run) const {
    const TrainConfig& c = run.config.train;
    BatchLoader::Settings out = loader_settings(c.micro_batch_size, c.global_batch_size, run.state.train.consumed_train_samples);
    if (!c.rampup_batch_size.empty()) out.samples_of_step = [this](int64_t consumed) { return batch_sizes_.at(consumed); };
    return out;
  }

  BatchLoader::Settings loader_settings(int64_t micro_batch_size, int64_t global_batch_size, int64_t first_sample) const {
    const Group& replicas = *run_.groups.data;
    return {.micro_batch_size = micro_batch_size, .micro_batches_per_step = global_batch_size / (micro_batch_size * replicas.size()),
            .data_parallel_rank = replicas.rank(), .data_parallel_size = replicas.size(), .first_sample = first_sample,
            .reset_position_ids = run_.config.dataset.reset_position_ids, .reset_attention_mask = run_.config.dataset.reset_attention_mask,
            .eod_id = run_.eod_id, .workers = std::clamp<int64_t>(run_.config.dataset.num_workers, 1, 2), .device = run_.model->options().device};
  }

  // Before the first step of a larger batch, as Megatron does: replicas may be added there.
  void save_before_growing() {
    const int64_t consumed = run_.state.train.consumed_train_samples;
    if (batch_size_ != 0 && batch_sizes_.at(consumed) != batch_size_) {
      if (run_.speaks()) log_info("batch size {} from here on, before {}", batch_sizes_.at(consumed), batch_size_);
      save();
    }
    batch_size_ = batch_sizes_.at(consumed);
  }

  void do_step() {
    const Clock::time_point start = Clock::now();
    const std::vector<MicroBatch> micro_batches = train_loader_.next_step();
    StepResult result;
    const std::vector<int64_t>& skips = run_.config.train.iterations_to_skip;
    const bool skip = std::find(skips.begin(), skips.end(), run_.state.train.step + 1) != skips.end();
    if (!skip) result = train_step(run_, micro_batches);
    advance(result, skip);
    if (skip || !reporter_) return;
    reporter_->step(run_, result, {.seconds = seconds_since(start), .data_wait_seconds = train_loader_.last_wait_seconds(), .samples = batch_size_});
  }

  void advance(const StepResult& result, bool skip) {
    const int64_t samples = batch_size_;
    TrainState& state = run_.state.train;
    ++state.step;
    state.consumed_train_samples = train_loader_.consumed_samples();
    if (skip) state.skipped_train_samples += samples;
    if (skip || result.skipped) return;
    run_.state.schedule_steps += samples;
    const int64_t length = run_.config.dataset.seq_length;
    state.floating_point_operations_so_far += run_.model->training_flops_per_token(length) * static_cast<double>(samples * length);
  }

  void do_evaluation() {
    if (!valid_loader_ || run_.state.train.step < run_.config.validation.start_eval_at_iter) return;
    const double loss = evaluate(run_, *valid_loader_);
    if (reporter_) reporter_->validation(run_, loss);
    const bool best = std::isfinite(loss) && (run_.state.best.iteration < 0 || loss < run_.state.best.loss);
    if (!run_.config.checkpoint.save_best || !best) return;
    run_.state.best = {.iteration = run_.state.train.step, .loss = loss};
    save();
  }

  void save() {
    const CheckpointConfig& c = run_.config.checkpoint;
    if (c.save.empty() || saved_at_ == run_.state.train.step || run_.state.train.step == started_at_) return;
    publish(Wait::yes);
    save_started_ = Clock::now();
    run_.state.optimizer_steps = run_.optimizer->steps();
    run_.state.loss_scaler = run_.loss_scaler.state();
    if (run_.save_lock) mark_launch(c.save);
    run_.ranks->phase(format("saving iteration {}", run_.state.train.step));
    const CheckpointContent content{.config = run_.config,
                                    .model = *run_.model,
                                    .optimizer = c.save_optim ? run_.optimizer.get() : nullptr,
                                    .schedule = &run_.schedule,
                                    .state = run_.state,
                                    .tokenizer_folder = run_.tokenizer_folder,
                                    .world = &run_.ranks->world(),
                                    .rows = rows_to_save()};
    writer_.begin(c.save, content, c.async_save ? Staging::copied : Staging::none);
    saved_at_ = run_.state.train.step;
    if (c.async_save) save_held_seconds_ = seconds_since(save_started_);
    else publish(Wait::yes);
  }

  // What has been saved appears under its name when every rank has written it. Every rank calls, with the same `wait`.
  void publish(Wait wait) {
    if (!writer_.under_way()) return;
    if (wait == Wait::yes) run_.ranks->phase("writing a checkpoint");
    const std::optional<PublishedCheckpoint> published = writer_.finish(wait);
    if (!published || !run_.speaks()) return;
    const std::vector<int64_t> removed = remove_old(published->best_iteration);
    const std::string held = run_.config.checkpoint.async_save ? format(", beside training, which waited {}", human_seconds(save_held_seconds_)) : "";
    log_info("saved {} in {}{}{}", published->folder, human_seconds(seconds_since(save_started_)), held,
             removed.empty() ? "" : format("; removed iterations {}", removed));
  }

  std::vector<SavedRows> rows_to_save() const {
    std::vector<SavedRows> out;
    for (const DataParallel::Share& share : run_.replicas->shares()) out.push_back({share.parameter, share.own});
    return out;
  }

  std::vector<int64_t> remove_old(int64_t best_iteration) const {
    const CheckpointConfig& c = run_.config.checkpoint;
    return remove_old_checkpoints(c.save, c.most_recent_k, best_iteration, c.save_retain_interval);
  }

  // One rank's signal or clock stops all, before the same step.
  bool asked_to_stop() {
    const int64_t minutes = run_.config.train.exit_duration_in_mins;
    const bool mine = StopSignal::received() || (minutes > 0 && seconds_since(started_) > 60.0 * static_cast<double>(minutes));
    if (run_.ranks->size() == 1) return mine;
    run_.ranks->phase("agreeing to go on");
    at::Tensor anyone = at::full({1}, mine ? 1 : 0, at::kByte);
    run_.ranks->world().all_reduce(anyone, ReduceOp::max);
    return anyone.item<int64_t>() != 0;
  }

  std::string reason() const {
    if (StopSignal::received()) return StopSignal::name();
    return due(run_.state.train.step, run_.config.train.exit_interval) ? "train.exit_interval" : "train.exit_duration_in_mins";
  }

  Run& run_;
  StopSignal stop_;
  const int64_t started_at_ = run_.state.train.step;
  const Clock::time_point started_ = Clock::now();
  const BatchSizes batch_sizes_;
  int64_t batch_size_ = 0;  // of the step under way or made last; 0: none yet
  BatchLoader train_loader_;
  std::optional<BatchLoader> valid_loader_;
  std::unique_ptr<Reporter> reporter_;  // where this rank speaks
  int64_t saved_at_ = -1;
  Clock::time_point save_started_;
  double save_held_seconds_ = 0;
  CheckpointWriter writer_;
};

}  // namespace

void train(Run& run) { Trainer(run).train(); }

}  // namespace ponte
