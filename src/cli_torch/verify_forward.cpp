// `ponte verify --forward`: both sides of a conversion compute the logits of the same prompts, one model in memory at a time.
#include <ATen/ATen.h>

#include <CLI/CLI.hpp>
#include <cmath>

#include "base/errors.h"
#include "base/log.h"
#include "cli_torch/commands.h"
#include "cli_torch/language_model.h"
#include "hub/hub.h"
#include "kernels/device.h"

namespace ponte {
namespace {

namespace fs = std::filesystem;

struct Comparison {
  double max_difference = 0, mean_difference = 0, scale = 0, cosine = 1;
  int64_t tokens = 0, same_token = 0;
};

std::vector<at::Tensor> logits_of(const fs::path& weights, const std::string& dtype, const at::Device& device,
                                  const std::vector<std::vector<int32_t>>& prompts) {
  const std::unique_ptr<Model> model = load_model(weights, dtype, device, {}, *Ranks::single());
  std::vector<at::Tensor> out;
  for (const auto& ids : prompts) {
    const at::Tensor tokens_BT = at::tensor(ids, at::kInt).to(at::kLong).unsqueeze(0);
    out.push_back(model->logits({.tokens_BT = tokens_BT}).squeeze(0).to(at::kCPU, at::kDouble));
  }
  return out;
}

Comparison compare(const at::Tensor& a_TV, const at::Tensor& b_TV) {
  require(a_TV.sizes() == b_TV.sizes(), "logits: {} columns on one side, {} on the other", a_TV.size(1), b_TV.size(1));
  const at::Tensor difference = (a_TV - b_TV).abs();
  Comparison c;
  c.max_difference = difference.max().item<double>();
  c.mean_difference = difference.mean().item<double>();
  c.scale = a_TV.abs().max().item<double>();
  c.cosine = at::cosine_similarity(a_TV, b_TV, 1).min().item<double>();
  c.tokens = a_TV.size(0);
  c.same_token = a_TV.argmax(1).eq(b_TV.argmax(1)).sum().item<int64_t>();
  return c;
}

}  // namespace

int run_verify_forward(const Arguments& arguments) {
  CLI::App app("Logits of a Hugging Face model and a Megatron checkpoint, compared on the same prompts.", "ponte verify --forward");
  std::string hf_model, revision, megatron_path, dtype = "float32", device = "auto";
  std::vector<std::string> prompts;
  double tolerance = 1e-5;
  app.add_option("--hf-model", hf_model, "folder or hub id")->required();
  app.add_option("--revision", revision, "branch, tag or commit of the hub id");
  app.add_option("--megatron-path", megatron_path, "Megatron checkpoint")->required();
  app.add_option("--prompt", prompts, "text; may be given several times")->take_all()->allow_extra_args(false);
  app.add_option("--torch-dtype", dtype, "of the computation")->capture_default_str();
  app.add_option("--device", device, "auto, cpu, cuda or cuda:N")->capture_default_str();
  app.add_option("--tolerance", tolerance, "largest difference allowed, relative to the largest logit")->capture_default_str();
  if (parse_arguments(app, arguments) == Parsed::done) return 0;
  if (prompts.empty()) prompts = {"The quick brown fox jumps over the lazy dog."};

  const fs::path hf = resolve_model(hf_model, revision);
  const Tokenizer tokenizer = Tokenizer::load(hf);
  std::vector<std::vector<int32_t>> ids;
  for (const std::string& prompt : prompts) {
    ids.push_back(tokenizer.encode(prompt));
    require(!ids.back().empty(), "prompt '{}': it has no tokens", prompt);
  }
  const at::Device on = choose_device(device);
  const std::vector<at::Tensor> left = logits_of(hf, dtype, on, ids), right = logits_of(megatron_path, dtype, on, ids);
  bool passed = true;
  for (size_t i = 0; i < ids.size(); ++i) {
    const Comparison c = compare(left[i], right[i]);
    const bool good = c.max_difference <= tolerance * c.scale && c.same_token == c.tokens;
    passed = passed && good;
    log_info("forward, prompt {} ({} tokens): max difference {:.3e}, mean {:.3e}, largest logit {:.3f}, cosine {:.9f}, same next token {} of {}: {}", i + 1,
             c.tokens, c.max_difference, c.mean_difference, c.scale, c.cosine, c.same_token, c.tokens, good ? "equal" : "DIFFERENT");
  }
  return passed ? 0 : 1;
}

}  // namespace ponte
