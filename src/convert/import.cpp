// HF folder to Megatron checkpoint: what is written around the weights, and when a target may be replaced.
#include <algorithm>
#include <chrono>
#include <memory>

#include "base/errors.h"
#include "base/folder_lock.h"
#include "config/config.h"
#include "convert/convert.h"
#include "convert/exact_values.h"
#include "convert/hash_check.h"
#include "convert/hf_files.h"
#include "convert/native_config.h"
#include "convert/native_writer.h"

namespace ponte {
namespace {

constexpr const char* kIteration = "iter_0000000";
constexpr const char* kTracker = "latest_checkpointed_iteration.txt";

std::string run_config_text(const ModelConfig& model, const ImportOptions& options) {
  Config config;
  config.model = model;
  config.checkpoint.save = fs::absolute(options.megatron_path).lexically_normal().string();
  config.checkpoint.save_optim = false;
  config.checkpoint.save_rng = false;
  config.tokenizer.tokenizer_type = "HuggingFaceTokenizer";
  config.tokenizer.tokenizer_model = options.reference.empty() ? options.hf_model.string() : options.reference;
  return bridge_run_config_yaml(config);
}

// Everything below iter_0000000; the manifest comes last.
Manifest write_iteration(const HfSource& source, const fs::path& directory, const ImportOptions& options) {
  fs::create_directories(directory);
  Manifest manifest = write_native_weights(source, directory, options.torch_dtype, options.threads);
  manifest.dropped = source.dropped();
  ModelConfig config = source.config();
  config.params_dtype = options.torch_dtype.value_or(source.dtype(source.rules().rules[0]));
  config.bf16 = config.params_dtype == DType::bf16;
  config.fp16 = config.params_dtype == DType::f16;
  write_file_atomically(directory / "run_config.yaml", run_config_text(config, options));
  save_torch_file(directory / "train_state.pt", train_state_of_import());
  keep_hf_files(options.hf_model, directory);
  keep_hf_storage(source.config(), source.rules(), directory);
  keep_exact_values(source, options.torch_dtype, directory);
  write_file_atomically(directory / kKeptFolder / kNativeManifest, manifest_text(manifest));
  return manifest;
}

void write_trackers(const fs::path& root) {
  save_torch_file(root / "latest_train_state.pt", train_state_of_import());
  write_file_atomically(root / kTracker, "0");
}

// Setting the tracker of a training run back to iteration 0 would make its next start forget everything.
void refuse_training_runs(const fs::path& root) {
  std::vector<std::string> others;
  for (const auto& entry : fs::directory_iterator(root))
    if (const std::string name = entry.path().filename().string(); name.starts_with("iter_") && name != kIteration) others.push_back(name);
  std::sort(others.begin(), others.end());
  require(others.empty(),
          "{} holds {}: the checkpoints of a training run, which would start again from this import; give another path, or remove them first", root,
          join(others, ", "));
}

bool is_absent_or_empty(const fs::path& root) { return !fs::exists(root) || (fs::is_directory(root) && fs::is_empty(root)); }

}  // namespace

ConversionReport import_checkpoint(const ImportOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  const fs::path& root = options.megatron_path;
  const bool fresh = is_absent_or_empty(root);
  const bool replace = options.existing == StagedDirectory::Existing::replace;
  require(fresh || replace, "{} already exists: give another path, or --overwrite to replace its iteration 0", root);
  require(fresh || is_native_checkpoint(root), "{} exists and is no Megatron checkpoint; --overwrite replaces only those", root);
  std::optional<FolderLock> lock;
  if (!fresh) {
    lock.emplace(root, "an import");
    remove_leftovers(root, Writers::none_alive);
    refuse_training_runs(root);
  }
  const HfSource source(options.hf_model);
  check_hf_manifest(source.checkpoint(), options.threads);

  Manifest manifest;
  if (fresh) {
    StagedDirectory staged(root, StagedDirectory::Existing::replace);
    manifest = write_iteration(source, staged.path() / kIteration, options);
    write_trackers(staged.path());
    staged.publish();
  } else {
    StagedDirectory staged(root / kIteration, StagedDirectory::Existing::replace);
    manifest = write_iteration(source, staged.path(), options);
    staged.publish();
    write_trackers(root);
  }
  ConversionReport report;
  report.architecture = source.config().hf_architecture;
  report.tensors = static_cast<int64_t>(source.checkpoint().tensors().size());
  report.bytes = source.checkpoint().total_bytes();
  report.casts = manifest.casts;
  report.dropped = manifest.dropped;
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

}  // namespace ponte
