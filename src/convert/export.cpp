// Megatron checkpoint to HF folder: what is written around the weights, and when a target may be replaced.
#include <chrono>
#include <nlohmann/json.hpp>

#include "base/errors.h"
#include "base/log.h"
#include "convert/accounting.h"
#include "convert/convert.h"
#include "convert/exact_values.h"
#include "convert/hf_files.h"
#include "convert/native_config.h"
#include "convert/hf_writer.h"
#include "convert/native_writer.h"
#include "families/moe_blocks.h"
#include "families/registry.h"
#include "families/settings.h"

namespace ponte {
namespace {

// The document as it was given when nothing in it changed, so that it survives to the byte. `directory` already holds the tokenizer.
void write_config(const ModelConfig& model, DType dtype, const fs::path& original, const fs::path& directory) {
  ModelConfig config = model;
  config.params_dtype = dtype;
  Json document = hf_config_from_model(config);
  const bool untouched = fs::exists(original) && read_json(original) == document;
  if (config.hf_config_json.empty()) add_token_ids(document, directory);
  write_file_atomically(directory / "config.json", untouched ? read_file(original) : dump_json(document));
}

// HF tensors of the model as it was released that this one has not, each for a reason its configuration gives; UserError for any other.
std::vector<std::string> absent_tensors(const NativeSource& source, const HfTensors& released, const Manifest& written, const fs::path& release) {
  const ModelConfig& config = source.config();
  std::vector<std::string> out;
  Accounting accounting(format("{}, seen from {}", source.iteration_directory(), release));
  for (const auto& [name, shape] : released) {
    if (written.tensors.contains(name)) continue;
    if (name.starts_with("mtp.") && family_of(config.hf_architecture).prediction_depths)
      out.push_back(format("{}: the model has {} multi-token prediction layers (mtp_num_layers)", name, config.mtp_num_layers));
    else if (name == "lm_head.weight" && config.share_embeddings_and_output_weights)
      out.push_back(format("{}: the output layer is the embedding (share_embeddings_and_output_weights)", name));
    else
      accounting.missing(name);
  }
  accounting.settle();
  return out;
}

// The tensors a checkpoint's own kept config.json speaks of.
HfTensors released_tensors(const fs::path& iteration) {
  HfTensors out = kept_hf_storage(iteration);
  const fs::path config = iteration / kKeptFolder / "config.json";
  if (!out.empty() || !fs::exists(config)) return out;
  for (const Rule& rule : rule_table(model_config_from_hf(config)).rules)
    for (const Source& tensor : rule.sources) out.emplace(tensor.name, tensor.shape);
  return out;
}

// Replacing is for folders that are models; anything else is the user's.
void require_replaceable(const fs::path& target) {
  if (!fs::exists(target)) return;
  require(fs::is_directory(target) && (fs::is_empty(target) || fs::exists(target / "config.json")),
          "{} exists and is no Hugging Face model; --overwrite replaces only those", target);
}

bool is_inside(const fs::path& inner, const fs::path& outer) {
  const fs::path relative = fs::weakly_canonical(inner).lexically_relative(fs::weakly_canonical(outer));
  return !relative.empty() && *relative.begin() != "..";
}

// What a checkpoint of Ponte remembers of its mathematics stands, whatever `asked`, the model that gives the rest of config.json, says.
ModelConfig as_trained(const ModelConfig& asked, const fs::path& release, const fs::path& iteration) {
  const fs::path kept = iteration / kKeptFolder / "config.json";
  if (!fs::exists(kept)) return asked;
  const ModelConfig own = model_config_from_hf(kept);
  if (own.hf_architecture != asked.hf_architecture) return asked;
  ConfigDraft draft;
  draft.config.model = asked;
  for (const ConfigDifference& difference : differences_in_mathematics(own, asked)) {
    apply_override(draft, difference.key + "=" + difference.left, "the checkpoint");
    log_warning("{}: {} as in the checkpoint, not {} as in {}", difference.key.substr(sizeof("model.") - 1), difference.left, difference.right, release);
  }
  return draft.config.model;
}

}  // namespace

ConversionReport export_checkpoint(const ExportOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  const bool empty = fs::is_directory(options.hf_path) && fs::is_empty(options.hf_path);
  const bool replace = options.existing == StagedDirectory::Existing::replace || empty;
  require(replace || !fs::exists(options.hf_path), "{} already exists: give another path, or --overwrite to replace it", options.hf_path);
  if (replace) require_replaceable(options.hf_path);
  require(!is_inside(options.megatron_path, options.hf_path), "{} holds the checkpoint {}; give another --hf-path", options.hf_path, options.megatron_path);

  std::optional<ModelConfig> given;
  HfTensors storage;
  if (options.hf_model) {
    require(!is_inside(*options.hf_model, options.hf_path), "{} holds --hf-model {}; give another --hf-path", options.hf_path, *options.hf_model);
    given = as_trained(model_config_from_hf(*options.hf_model / "config.json"), *options.hf_model, iteration_directory(options.megatron_path));
    if (is_hf_checkpoint(*options.hf_model)) storage = hf_tensors(*options.hf_model);
  }
  const NativeSource source(options.megatron_path, given ? &*given : nullptr, storage);
  const fs::path& from = options.hf_model ? *options.hf_model : source.iteration_directory();

  StagedDirectory staged(options.hf_path, replace ? StagedDirectory::Existing::replace : StagedDirectory::Existing::refuse);
  const ExactValues exact(source);
  std::vector<SourceBuffer> buffers(source.buffers().begin(), source.buffers().end());
  const std::map<size_t, int64_t> exact_buffers = exact.append_to(buffers);
  const NativePieces pieces{source.rules(), buffers, [&](size_t rule, size_t segment) { return source.chunks(rule, segment); },
                            [&](size_t rule) { return source.dtype(source.rules().rules[rule]); },
                            [&](size_t rule) { return source.offset(rule) - native_offset(source.rules().rules[rule]); }, exact_buffers};
  Manifest manifest = write_hf_weights(pieces, staged.path(), {options.torch_dtype, options.max_shard_bytes, options.threads});
  manifest.architecture = source.config().hf_architecture;
  manifest.absent = absent_tensors(source, options.hf_model ? storage : released_tensors(from), manifest, from);
  restore_hf_files(from, staged.path());
  const Rule& embedding = source.rules().rules[0];
  write_config(source.config(), stored_dtype(embedding, source.dtype(embedding), options.torch_dtype),
               options.hf_model ? *options.hf_model / "config.json" : from / kKeptFolder / "config.json", staged.path());
  write_file_atomically(staged.path() / kHfManifest, manifest_text(manifest));
  staged.publish();
  if (const std::string own = router_of_its_own(source.config()); !own.empty())
    log_warning("its routers have {}, which transformers' {} has not: there, tokens go to other experts", own, manifest.architecture);

  ConversionReport report;
  report.architecture = manifest.architecture;
  report.tensors = static_cast<int64_t>(manifest.tensors.size());
  for (const auto& [name, tensor] : manifest.tensors) report.bytes += static_cast<uint64_t>(tensor_bytes({name, tensor.dtype, tensor.shape}));
  report.casts = manifest.casts;
  report.absent = manifest.absent;
  report.has_tokenizer = !tokenizer_files(staged.target()).empty();
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

}  // namespace ponte
