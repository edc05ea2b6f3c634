// `ponte export`: a Megatron checkpoint becomes a Hugging Face folder.
#include <CLI/CLI.hpp>
#include <cstdio>

#include "base/errors.h"
#include "base/log.h"
#include "cli/commands.h"
#include "cli/convert_report.h"
#include "format/hf_index.h"
#include "hub/hub.h"

namespace ponte {

int run_export(const Arguments& arguments) {
  CLI::App app("Writes a Hugging Face folder (safetensors, config.json, tokenizer) from a Megatron checkpoint.", "ponte export");
  ExportOptions options;
  std::string model, revision, megatron_path, hf_path, dtype, shard_size = "5GB";
  bool overwrite = false;
  app.add_option("--megatron-path", megatron_path, "checkpoint root or iter_* folder")->required();
  app.add_option("--hf-path", hf_path, "folder to be created")->required();
  app.add_option("--hf-model", model, "folder or hub id whose config.json and tokenizer are used (default: those kept in the checkpoint)");
  app.add_option("--max-shard-size", shard_size, "largest safetensors file: 5GB, 300MB, 2GiB")->capture_default_str();
  app.add_option("--torch-dtype", dtype, "cast every weight: bf16, fp16, fp32 (default: each keeps its own type)");
  app.add_option("--revision", revision, "branch, tag or commit of the hub id");
  within(app.add_option("--threads", options.threads, "0: all cores")->capture_default_str(), 0, kMostThreads);
  app.add_flag("--overwrite", overwrite, "replace an existing Hugging Face folder");
  if (parse_arguments(app, arguments) == Parsed::done) return 0;
  options.torch_dtype = dtype_flag(dtype);
  options.max_shard_bytes = parse_size(shard_size);
  options.megatron_path = megatron_path;
  options.hf_path = hf_path;
  options.existing = overwrite ? StagedDirectory::Existing::replace : StagedDirectory::Existing::refuse;
  if (!model.empty()) options.hf_model = resolve_tokenizer(model, revision);
  const ConversionReport report = export_checkpoint(options);
  print_losses(report);
  if (!report.has_tokenizer)
    log_warning("{}: without a tokenizer, for the checkpoint holds none; export with --hf-model REF takes that of the model it came from", hf_path);
  std::printf("%s\n%s\n", summary_line(report).c_str(), hf_path.c_str());
  return 0;
}

}  // namespace ponte
