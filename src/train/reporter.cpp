// The line and the tags follow Megatron Bridge's training_log and evaluate_and_print_results. As there, the learning rate shown for an iteration is
// the one the next step will use.
#include "train/reporter.h"

#include <fcntl.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <ctime>
#include <nlohmann/json.hpp>

#include "base/errors.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "train/expert_report.h"

namespace ponte {
namespace {

std::string printed(const char* pattern, auto... values) {
  char text[256];
  std::snprintf(text, sizeof text, pattern, values...);
  return text;
}

std::string time_stamp() {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", &local);
  return text;
}

double learning_rate(const Run& run) { return run.schedule.learning_rate(run.state.schedule_steps); }

// Lines of iterations up to `last`, as they were.
std::string lines_up_to(const fs::path& file, int64_t last) {
  std::string kept;
  if (last == 0 || !fs::exists(file)) return kept;
  for (const std::string& line : split(read_file(file), '\n')) {
    const Json entry = Json::parse(line, nullptr, false);
    if (entry.is_object() && entry.contains("iteration") && entry["iteration"].is_number_integer() && entry["iteration"].get<int64_t>() <= last)
      kept += line + "\n";
  }
  return kept;
}

int open_json(const fs::path& file, int64_t last) {
  if (file.empty()) return -1;
  if (file.has_parent_path()) fs::create_directories(file.parent_path());
  write_file_atomically(file, lines_up_to(file, last));
  const int fd = ::open(file.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
  if (fd < 0) fail_errno(format("logger.jsonl {}: cannot be written", file));
  return fd;
}

}  // namespace

Reporter::Reporter(const Run& run)
    : tokens_per_sample_(static_cast<double>(run.config.dataset.seq_length)),
      flops_per_sample_(run.model->training_flops_per_token(run.config.dataset.seq_length) * tokens_per_sample_),
      steps_before_(run.state.train.step),
      json_(open_json(run.config.logger.jsonl, run.state.train.step)),
      progress_("training", static_cast<uint64_t>(run.config.train.train_iters), Progress::Unit::items, "steps") {
  progress_.already_done(static_cast<uint64_t>(steps_before_));
  const std::optional<int64_t> first_step = run.state.train.step > 0 ? std::optional(run.state.train.step + 1) : std::nullopt;
  if (!run.config.logger.tensorboard_dir.empty()) events_ = std::make_unique<EventFile>(run.config.logger.tensorboard_dir, first_step);
}

Reporter::~Reporter() {
  if (json_ >= 0) ::close(json_);
}

void Reporter::step(const Run& run, const StepResult& result, const StepTime& time) {
  pending_ = true;
  last_ = result;
  last_time_ = time;
  validation_loss_.reset();
  if (run.config.logger.log_params_norm) parameter_norm_ = result.parameter_norm;
  ++interval_.steps;
  interval_.seconds += time.seconds;
  interval_.data_wait_seconds += time.data_wait_seconds;
  interval_.samples += time.samples;
  window_.push_back(time);
  if (std::ssize(window_) > run.config.logger.throughput_window_size) window_.pop_front();
  if (result.skipped) ++interval_.skipped;
  else interval_.loss += result.loss;
  if (!std::isfinite(result.loss)) ++interval_.nan;
  progress_.set_note(printed("loss %.4f, %.0f tokens/s", result.loss, last_tokens() / time.seconds));
  progress_.advance(1);
  if (run.state.train.step % std::max<int64_t>(run.config.logger.log_interval, 1) == 0) log_step(run);
  if (events_ && run.state.train.step % std::max<int64_t>(run.config.logger.tensorboard_log_interval, 1) == 0) write_events(run);
}

void Reporter::log_step(const Run& run) {
  const TrainState& state = run.state.train;
  const double steps = static_cast<double>(interval_.steps), seconds = interval_.seconds / steps;
  const double rate = static_cast<double>(interval_.samples) / interval_.seconds;
  std::string line = " [" + time_stamp() + "]";
  line += printed(" iteration %8lld/%8lld |", static_cast<long long>(state.step), static_cast<long long>(run.config.train.train_iters));
  line += printed(" consumed samples: %12lld |", static_cast<long long>(state.consumed_train_samples));
  if (state.skipped_train_samples > 0) line += printed(" skipped samples: %12lld |", static_cast<long long>(state.skipped_train_samples));
  line += printed(" elapsed time per iteration (ms): %.1f |", seconds * 1000);
  line += printed(" batch-generator (ms): %.2f |", interval_.data_wait_seconds / steps * 1000);
  line += printed(" throughput per GPU (TFLOP/s/GPU): %.3g |", rate * flops_per_sample_ / 1e12 / static_cast<double>(run.ranks->size()));
  line += printed(" tokens/s: %.0f |", rate * tokens_per_sample_);
  line += printed(" learning rate: %.6E |", learning_rate(run));
  line += printed(" global batch size: %5lld |", static_cast<long long>(last_time_.samples));
  const int64_t taken = interval_.steps - interval_.skipped;  // a step whose gradients overflowed has neither loss nor norm, as in Megatron
  if (taken > 0) line += printed(" lm loss: %.6E |", interval_.loss / static_cast<double>(taken));
  line += summarize_experts(*run.model).log;
  line += printed(" loss scale: %.1f |", run.loss_scaler.scale());
  if (!last_.skipped) line += printed(" grad norm: %.3f |", last_.grad_norm);
  if (run.config.optimizer.log_num_zeros_in_grad) line += printed(" num zeros: %lld |", static_cast<long long>(last_.zeros));
  if (run.config.logger.log_params_norm) line += printed(" params norm: %.3f |", parameter_norm_);
  line += printed(" number of skipped iterations: %3lld |", static_cast<long long>(interval_.skipped));
  line += printed(" number of nan iterations: %3lld |", static_cast<long long>(interval_.nan));
  log_line(line);
  interval_ = {};
}

void Reporter::write_events(const Run& run) {
  const LoggerConfig& c = run.config.logger;
  const TrainState& state = run.state.train;
  const double ranks = static_cast<double>(run.ranks->size());
  std::vector<Scalar> by_step, by_samples;
  const auto add = [&](bool wanted, std::string_view tag, std::string_view tag_by_samples, double value) {
    if (!wanted) return;
    by_step.push_back({tag, value});
    by_samples.push_back({tag_by_samples, value});
  };
  add(true, "learning-rate", "learning-rate vs samples", learning_rate(run));
  add(true, "batch-size", "batch-size vs samples", static_cast<double>(last_time_.samples));
  add(true, "lm loss", "lm loss vs samples", last_.loss);
  add(!last_.skipped, "grad-norm", "grad-norm vs samples", last_.grad_norm);
  add(c.log_loss_scale_to_tensorboard, "loss-scale", "loss-scale vs samples", run.loss_scaler.scale());
  add(c.log_world_size_to_tensorboard, "world-size", "world-size vs samples", ranks);
  add(run.config.optimizer.log_num_zeros_in_grad, "num-zeros", "num-zeros vs samples", static_cast<double>(last_.zeros));
  add(c.log_params_norm, "params-norm", "params-norm vs samples", parameter_norm_);
  if (state.skipped_train_samples > 0) by_step.push_back({"skipped-train-samples", static_cast<double>(state.skipped_train_samples)});
  const double teraflops = last_teraflops();
  by_step.insert(by_step.end(), {{"throughput/tflops/device", teraflops / ranks}, {"throughput/tflops", teraflops}, {"throughput_per_gpu", teraflops / ranks},
                                 {"iteration-time", last_time_.seconds}, {"batch-generator-time", last_time_.data_wait_seconds}});
  if (c.log_throughput_to_tensorboard) append_throughput(run, by_step);
  else by_step.push_back({"throughput/tokens_per_sec", last_tokens() / last_time_.seconds});
  if (c.log_runtime_to_tensorboard) append_run_time(run, by_step);
  const ExpertSummary experts = summarize_experts(*run.model);
  for (const auto& [tag, value] : experts.losses) by_step.push_back({tag, value});
  for (const auto& [tag, value] : experts.extremes) by_step.push_back({tag, value});
  events_->add_scalars(state.step, by_step);
  events_->add_scalars(state.consumed_train_samples, by_samples);
  std::vector<NumberedWeights> loads;
  for (size_t i = 0; i < experts.loads.size(); ++i) loads.push_back({experts.load_tags[i], experts.loads[i]});
  events_->add_histograms(state.step, loads);
}

// Averages over the last throughput_window_size steps; none before there have been as many.
void Reporter::append_throughput(const Run& run, std::vector<Scalar>& out) const {
  const TrainConfig& c = run.config.train;
  if (std::ssize(window_) < run.config.logger.throughput_window_size) return;
  double seconds = 0, sequences = 0;
  for (const StepTime& step : window_) seconds += step.seconds, sequences += static_cast<double>(step.samples);
  const double batches = static_cast<double>(window_.size()) / seconds, samples = sequences / seconds, tokens = samples * tokens_per_sample_;
  const double ranks = static_cast<double>(run.ranks->size());
  out.insert(out.end(), {{"throughput/batches_per_sec", batches}, {"throughput/samples_per_sec", samples}, {"throughput/tokens_per_sec", tokens},
                         {"throughput/device/batches_per_sec", batches / ranks}, {"throughput/device/samples_per_sec", samples / ranks},
                         {"throughput/device/tokens_per_sec", tokens / ranks},
                         {"throughput/micro_batch_size", static_cast<double>(c.micro_batch_size)},
                         {"throughput/global_batch_size", static_cast<double>(last_time_.samples)}});
}

// What remains is reckoned from the steps of this process, so that a continued run is no slower for its pause.
void Reporter::append_run_time(const Run& run, std::vector<Scalar>& out) const {
  const TrainState& state = run.state.train;
  const std::string& name = run.config.logger.runtime_time_unit;
  const double unit = name == "days" ? 86400 : name == "hours" ? 3600 : name == "minutes" ? 60 : 1;
  const double elapsed = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count() / unit;
  const double done = static_cast<double>(state.step - steps_before_), left = static_cast<double>(run.config.train.train_iters - state.step);
  out.insert(out.end(), {{"time/remaining_estimate", elapsed / done * left}, {"time/total", elapsed}, {"time/batches", static_cast<double>(state.step)},
                         {"time/samples", static_cast<double>(state.consumed_train_samples)},
                         {"time/tokens", static_cast<double>(state.consumed_train_samples * run.config.dataset.seq_length)}});
}

void Reporter::validation(const Run& run, double loss) {
  validation_loss_ = loss;
  const double perplexity = std::exp(std::min(20.0, loss));
  log_line(printed(" validation loss at iteration %lld | lm loss value: %.6E | lm loss PPL: %.6E | ", static_cast<long long>(run.state.train.step), loss,
                   perplexity));
  if (!events_) return;
  const size_t curves = run.config.logger.log_validation_ppl_to_tensorboard ? 2 : 1;
  const Scalar by_step[] = {{"lm loss validation", loss}, {"lm loss validation ppl", perplexity}};
  const Scalar by_samples[] = {{"lm loss validation vs samples", loss}, {"lm loss validation ppl vs samples", perplexity}};
  events_->add_scalars(run.state.train.step, std::span(by_step).first(curves));
  events_->add_scalars(run.state.train.consumed_train_samples, std::span(by_samples).first(curves));
}

void Reporter::end_step(const Run& run) {
  if (json_ >= 0 && pending_) write_json(run);
  pending_ = false;
}

void Reporter::write_json(const Run& run) {
  Json entry{{"iteration", run.state.train.step}, {"lm_loss", last_.loss}, {"grad_norm", last_.grad_norm}, {"learning_rate", learning_rate(run)},
             {"consumed_samples", run.state.train.consumed_train_samples}, {"tokens_per_second", last_tokens() / last_time_.seconds},
             {"throughput_per_gpu", last_teraflops() / static_cast<double>(run.ranks->size())},
             {"ms_per_iteration", last_time_.seconds * 1000}, {"data_wait_ms", last_time_.data_wait_seconds * 1000}};
  if (run.loss_scaler.is_dynamic()) entry.update({{"loss_scale", run.loss_scaler.scale()}, {"skipped", last_.skipped}});
  if (run.config.optimizer.log_num_zeros_in_grad) entry["num_zeros"] = last_.zeros;
  if (run.config.logger.log_params_norm) entry["params_norm"] = parameter_norm_;
  const ExpertSummary experts = summarize_experts(*run.model);
  for (const auto& [name, value] : experts.losses) entry[name] = value;
  if (!experts.loads.empty()) entry["expert_load"] = experts.loads;
  if (validation_loss_) entry["val_loss"] = *validation_loss_;
  const std::string line = entry.dump() + "\n";
  if (::write(json_, line.data(), line.size()) != static_cast<ssize_t>(line.size()))
    fail_errno(format("logger.jsonl {}: cannot be written", run.config.logger.jsonl));
}

}  // namespace ponte
