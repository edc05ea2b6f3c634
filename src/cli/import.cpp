// `ponte import`: a Hugging Face model becomes a Megatron checkpoint.
#include <CLI/CLI.hpp>
#include <cstdio>

#include "base/errors.h"
#include "cli/commands.h"
#include "cli/convert_report.h"
#include "hub/hub.h"

namespace ponte {

int run_import(const Arguments& arguments) {
  CLI::App app("Writes a Megatron checkpoint (iteration 0) with the weights, configuration and tokenizer of a Hugging Face model.", "ponte import");
  ImportOptions options;
  std::string model, revision, megatron_path, dtype, format = "torch_dist";
  bool overwrite = false;
  app.add_option("--hf-model", model, "folder or hub id")->required();
  app.add_option("--megatron-path", megatron_path, "folder to be created")->required();
  app.add_option("--torch-dtype", dtype, "cast every weight: bf16, fp16, fp32 (default: each keeps its own type)");
  app.add_option("--ckpt-format", format, "torch_dist or fsdp_dtensor")->capture_default_str();
  app.add_option("--revision", revision, "branch, tag or commit of the hub id");
  within(app.add_option("--threads", options.threads, "0: all cores")->capture_default_str(), 0, kMostThreads);
  app.add_flag("--overwrite", overwrite, "replace iteration 0 of an existing checkpoint");
  if (parse_arguments(app, arguments) == Parsed::done) return 0;
  options.format = container_flag(format);
  options.torch_dtype = dtype_flag(dtype);
  options.hf_model = resolve_model(model, revision);
  options.reference = model;
  options.megatron_path = megatron_path;
  options.existing = overwrite ? StagedDirectory::Existing::replace : StagedDirectory::Existing::refuse;
  const ConversionReport report = import_checkpoint(options);
  print_losses(report);
  std::printf("%s\n%s\n", summary_line(report).c_str(), megatron_path.c_str());
  return 0;
}

}  // namespace ponte
