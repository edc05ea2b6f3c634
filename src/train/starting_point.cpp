#include "train/starting_point.h"

#include <chrono>

#include "base/errors.h"
#include "base/log.h"
#include "checkpoint/load.h"
#include "hub/hub.h"

namespace ponte {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// The positions of a checkpoint count in its data; on other data they would silently mean other samples.
void check_same_data(const DataRecord& stored, const DataRecord& now, const std::string& folder) {
  require(stored.order == now.order, "{}: its sample order is {} and this run's {} (dataset.order)", folder, stored.order, now.order);
  require(stored.order != "megatron" || stored.requested_train_samples == now.requested_train_samples,
          "{}: its sample order was made for {} training samples and this run asks for {} (train.train_iters x train.global_batch_size); Megatron's order "
          "changes with that number, so the run would not continue. Keep the number (train.exit_interval stops earlier), or start a new run from these "
          "weights with checkpoint.finetune=true",
          folder, stored.requested_train_samples, now.requested_train_samples);
  require(stored.train_fingerprint == now.train_fingerprint,
          "{}: it was trained on other data (fingerprint {}, now {}): dataset.data_path, split, seq_length and random_seed must be as they were, or start a "
          "new run from these weights with checkpoint.finetune=true",
          folder, stored.train_fingerprint, now.train_fingerprint);
}

void require_prediction_layers(const WeightSource& source, const ModelConfig& model, const fs::path& where) {
  require(source.config().mtp_num_layers >= model.mtp_num_layers, "{}: it holds {} prediction layers, model.mtp_num_layers asks for {}", where,
          source.config().mtp_num_layers, model.mtp_num_layers);
}

void open_checkpoint(const FoundCheckpoint& found, const Run& run, StartingPoint& out) {
  if (const std::optional<DataRecord> stored = stored_data(found)) check_same_data(*stored, run.state.data, found.folder.string());
  out.resumed = found;
  out.checkpoint = std::make_unique<NativeSource>(found.folder, &run.model->config());
  require_prediction_layers(*out.checkpoint, run.model->config(), found.folder);
}

void open_weights(const fs::path& path, const Run& run, StartingPoint& out) {
  out.weights_path = path;
  out.weights = WeightSource::open(path, run.model->config());
  require_prediction_layers(*out.weights, run.model->config(), path);
}

void choose(const ResolvedRun& resolved, const Run& run, StartingPoint& out) {
  const CheckpointConfig& c = run.config.checkpoint;
  if (!c.load.empty()) {
    if (run.found && !c.finetune) return open_checkpoint(*run.found, run, out);
    if (run.found) return open_weights(run.found->folder, run, out);
    require(!c.exit_on_missing_checkpoint, "checkpoint.load {}: no checkpoint there", c.load);
    if (run.speaks()) log_info("no checkpoint in {} yet", c.load);
  }
  if (!c.pretrained_checkpoint.empty())
    return open_weights(is_hub_id(c.pretrained_checkpoint) ? resolve_model(c.pretrained_checkpoint) : fs::path(c.pretrained_checkpoint), run, out);
  if (!resolved.hf_model_folder.empty()) open_weights(resolved.hf_model_folder, run, out);
}

// Of a checkpoint of Ponte's own, `stored`, or of another program's.
void say_resumed(const StartingPoint& start, const Run& run, const LoadedRun& loaded, const std::optional<DataRecord>& stored, double seconds) {
  const fs::path& folder = start.resumed->folder;
  const bool checked = start.checkpoint->checks().present();
  if (stored && !checked) log_warning("{}: its manifest is gone, so that its content cannot be checked", folder);
  log_info("resuming from {} at iteration {} of {}, {} samples consumed; {}, {} in {:.2f} s; {}", folder, run.state.train.step, run.config.train.train_iters,
           run.state.train.consumed_train_samples, loaded.has_optimizer ? "weights and optimizer state" : "weights only",
           checked ? "read and checked" : "read", seconds,
           stored ? "data checked to be the same" : "written by another program, so that the data cannot be checked to be the same");
}

void resume(StartingPoint& start, Run& run) {
  const DataRecord data = run.state.data;
  const CheckpointConfig& c = run.config.checkpoint;
  const fs::path& folder = start.resumed->folder;
  const std::optional<DataRecord> stored = stored_data(*start.resumed);
  const auto begin = Clock::now();
  start.checkpoint->take_as_checked();
  LoadedRun loaded = load_run(*start.checkpoint, run.config, run.schedule, *run.model, c.load_optim ? run.optimizer.get() : nullptr);
  const double seconds = start.seconds + seconds_since(begin);
  if (!c.load_optim) run.optimizer->main_params_from_values();
  require(loaded.has_optimizer || !c.load_optim || loaded.state.train.step == 0,
          "{}: it holds no optimizer state; checkpoint.load_optim=false goes on without, checkpoint.finetune=true takes the weights alone", folder);
  if (stored && stored->valid_fingerprint != data.valid_fingerprint) loaded.state.train.consumed_valid_samples = 0;
  if (loaded.has_optimizer && run.loss_scaler.is_dynamic()) run.loss_scaler.restore(loaded.state.loss_scaler);
  run.state = loaded.state;
  run.state.data = data;
  run.schedule = loaded.schedule;
  if (!loaded.has_optimizer) run.state.schedule_steps = run.state.train.consumed_train_samples;
  if (run.speaks()) say_resumed(start, run, loaded, stored, seconds);
}

}  // namespace

StartingPoint open_starting_point(const ResolvedRun& resolved, const Run& run) {
  const auto begin = Clock::now();
  StartingPoint out;
  choose(resolved, run, out);
  out.seconds = seconds_since(begin);
  return out;
}

std::string StartingPoint::fingerprint() const {
  if (checkpoint) return format("{} with content {}", resumed->folder.filename(), checkpoint->fingerprint());
  return weights ? format("weights with content {}", weights->fingerprint()) : "random weights";
}

void check_starting_point(StartingPoint& start, const Run& run) {
  const auto begin = Clock::now();
  const Part part{run.ranks->rank(), run.ranks->size()};
  using Contents = WeightSource::Contents;
  if (start.checkpoint) start.checkpoint->check_part(part, run.config.checkpoint.load_optim ? Contents::weights_and_state : Contents::weights);
  if (start.weights) start.weights->check_part(part, Contents::weights);
  start.seconds += seconds_since(begin);
}

void go_to_starting_point(StartingPoint& start, Run& run) {
  if (start.checkpoint) return resume(start, run);
  if (start.weights) {
    start.weights->take_as_checked();
    run.model->load(*start.weights);
  } else {
    run.model->initialize(static_cast<uint64_t>(run.config.rng.seed));
  }
  run.optimizer->main_params_from_values();
  if (!run.speaks()) return;
  if (start.weights) log_info("starting from the weights of {}", start.weights_path);
  else log_info("starting from random weights, seed {}", run.config.rng.seed);
}

}  // namespace ponte
