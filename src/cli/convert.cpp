// `ponte convert`: a Megatron checkpoint in another of Megatron's formats.
#include <CLI/CLI.hpp>
#include <cstdio>

#include "base/errors.h"
#include "cli/commands.h"
#include "cli/convert_report.h"
#include "hub/hub.h"

namespace ponte {

int run_convert(const Arguments& arguments) {
  CLI::App app("Writes a Megatron checkpoint in another format: torch_dist or fsdp_dtensor, with weights, optimizer state and position.", "ponte convert");
  ConvertOptions options;
  std::string model, revision, megatron_path, save, dtype, format_name;
  bool overwrite = false;
  app.add_option("--megatron-path", megatron_path, "checkpoint root or iter_* folder")->required();
  app.add_option("--save", save, "folder to be created")->required();
  app.add_option("--ckpt-format", format_name, "torch_dist or fsdp_dtensor")->required();
  app.add_option("--hf-model", model, "folder or hub id whose config.json is used (default: the checkpoint's own configuration)");
  app.add_option("--torch-dtype", dtype, "cast the weights: bf16, fp16, fp32 (default: as stored, or the run's type where main parameters stood for them)");
  app.add_option("--revision", revision, "branch, tag or commit of the hub id");
  within(app.add_option("--threads", options.threads, "0: all cores")->capture_default_str(), 0, kMostThreads);
  app.add_flag("--overwrite", overwrite, "replace the same iteration of an existing checkpoint");
  if (parse_arguments(app, arguments) == Parsed::done) return 0;
  options.format = container_flag(format_name);
  options.torch_dtype = dtype_flag(dtype);
  options.megatron_path = megatron_path;
  options.save = save;
  options.existing = overwrite ? StagedDirectory::Existing::replace : StagedDirectory::Existing::refuse;
  if (!model.empty()) options.hf_model = resolve_tokenizer(model, revision);
  const ConversionReport report = convert_checkpoint(options);
  print_losses(report);
  std::printf("%s\n%s\n", summary_line(report).c_str(), save.c_str());
  return 0;
}

}  // namespace ponte
