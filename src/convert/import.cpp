// HF folder to Megatron checkpoint: what is written around the weights.
#include <chrono>
#include <memory>

#include "base/errors.h"
#include "config/config.h"
#include "convert/checkpoint_target.h"
#include "convert/convert.h"
#include "convert/exact_values.h"
#include "convert/hash_check.h"
#include "convert/hf_files.h"
#include "convert/native_config.h"
#include "convert/native_writer.h"
#include "convert/training_state.h"

namespace ponte {
namespace {

constexpr const char* kIteration = "iter_0000000";
constexpr const char* kTracker = "latest_checkpointed_iteration.txt";

std::string run_config_text(const ModelConfig& model, const ImportOptions& options) {
  Config config;
  config.model = model;
  config.checkpoint.save = fs::absolute(options.megatron_path).lexically_normal().string();
  config.checkpoint.ckpt_format = options.format == Container::torch_dist ? "torch_dist" : "fsdp_dtensor";
  config.checkpoint.save_optim = false;
  config.checkpoint.save_rng = false;
  config.tokenizer.tokenizer_type = "HuggingFaceTokenizer";
  config.tokenizer.tokenizer_model = options.reference.empty() ? options.hf_model.string() : options.reference;
  return bridge_run_config_yaml(config);
}

// Everything below iter_0000000; the manifest comes last.
Manifest write_iteration(const HfSource& source, const fs::path& directory, const ImportOptions& options) {
  const bool torch_dist = options.format == Container::torch_dist;
  const Dialect dialect = torch_dist ? dialect_of(source.rules()) : Dialect{Container::fsdp_dtensor, LayerKeys::numbered};
  const Value common = common_state_of_import(source.config());
  const NativeContent weights[] = {{source, "", options.torch_dtype}};
  Manifest manifest = write_native_tensors(weights, torch_dist ? NativeExtras() : fsdp_extras(source.rules(), common, {}, {}), directory,
                                           {dialect, options.threads, "import"});
  if (torch_dist) {
    save_torch_file(directory / "common.pt", common);
    write_file_atomically(directory / "metadata.json", metadata_json());
  }
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
  write_native_manifest(directory, manifest);
  return manifest;
}

void write_trackers(const fs::path& root) {
  save_torch_file(root / "latest_train_state.pt", train_state_of_import());
  write_file_atomically(root / kTracker, "0");
}

}  // namespace

ConversionReport import_checkpoint(const ImportOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  CheckpointTarget target(options.megatron_path, kIteration, options.existing, "an import");
  const HfSource source(options.hf_model);
  check_hf_manifest(source.checkpoint(), options.threads);

  Manifest manifest;
  target.publish([&](const fs::path& folder) { manifest = write_iteration(source, folder, options); }, write_trackers);
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
