// `ponte verify`: are a Hugging Face model and a Megatron checkpoint the same weights? Bit by bit here; --forward compares logits in the other half.
#include <CLI/CLI.hpp>
#include <cstdio>

#include "base/errors.h"
#include "cli/commands.h"
#include "cli/convert_report.h"
#include "hub/hub.h"

namespace ponte {

int run_verify(const Arguments& arguments) {
  CLI::App app("Compares a Hugging Face model with a Megatron checkpoint, every tensor, bit by bit. Without --hf-model: checks the content hashes Ponte wrote.",
               "ponte verify");
  VerifyOptions options;
  std::string model, revision, megatron_path;
  std::vector<std::string> prompts;
  std::string device = "auto";
  bool forward = false;
  app.add_option("--megatron-path", megatron_path, "checkpoint root or iter_* folder")->required();
  app.add_option("--hf-model", model, "folder or hub id");
  app.add_option("--revision", revision, "branch, tag or commit of the hub id");
  app.add_flag("--forward", forward, "also run both and compare their logits");
  app.add_option("--prompt", prompts, "text for --forward; may be given several times")->take_all()->allow_extra_args(false);
  app.add_option("--device", device, "of --forward: auto, cpu, cuda or cuda:N")->capture_default_str();
  within(app.add_option("--threads", options.threads, "0: all cores")->capture_default_str(), 0, kMostThreads);
  if (parse_arguments(app, arguments) == Parsed::done) return 0;
  require(!forward || !model.empty(), "--forward compares with --hf-model, which is missing");
  options.megatron_path = megatron_path;
  if (!model.empty()) options.hf_model = resolve_model(model, revision);
  const VerifyReport report = verify_checkpoint(options);
  print_losses(report.compared);
  if (!options.hf_model) std::printf("%s\n", summary_line(report.compared).c_str());
  if (report.manifest_checked) std::printf("content hashes: as written\n");
  if (options.hf_model)
    std::printf("%s\n%s\n", summary_line(report.compared).c_str(), report.compared.casts.empty() ? "equal, bit for bit" : "equal after the casts listed");
  if (!forward) return 0;
  std::fflush(stdout);
  Arguments rest = {"--hf-model", options.hf_model->string(), "--megatron-path", megatron_path, "--device", device};
  for (const std::string& prompt : prompts) rest.insert(rest.end(), {"--prompt", prompt});
  run_in_torch_half("verify-forward", rest);
}

}  // namespace ponte
