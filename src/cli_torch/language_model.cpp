// Flags to a loaded model.
#include "cli_torch/language_model.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <numeric>
#include <optional>

#include "base/errors.h"
#include "base/file.h"
#include "base/log.h"
#include "cli/command.h"
#include "comm/same_settings.h"
#include "config/config.h"
#include "convert/native_config.h"
#include "convert/segment_source.h"
#include "convert/weight_source.h"
#include "hub/hub.h"
#include "kernels/device.h"

namespace ponte {
namespace {

at::ScalarType scalar_type(DType dtype) {
  switch (dtype) {
    case DType::f32: return at::kFloat;
    case DType::bf16: return at::kBFloat16;
    case DType::f16: return at::kHalf;
    case DType::f64: return at::kDouble;
    default: fail("--torch-dtype: {} found; auto, bfloat16, float16 or float32 wanted", torch_name(dtype));
  }
}

// The folder of a Megatron checkpoint that holds its tokenizer/.
fs::path megatron_tokenizer(const fs::path& checkpoint) {
  const fs::path tokenizer = iteration_directory(checkpoint) / "tokenizer";
  require(Tokenizer::is_in(tokenizer), "{}: the checkpoint holds no tokenizer; name the model it came from with --hf-model-path", checkpoint);
  return tokenizer;
}

void check_choice(const ModelChoice& choice) {
  require(!choice.hf_model.empty() || !choice.megatron_path.empty(), "no model: give --hf-model-path REF or --megatron-model-path DIR");
  require(choice.adapters.empty(), "adapters: {} given, but generating with adapters is not part of this version; merge them first", choice.adapters);
}

// Layers that do not divide over the stages: the first stages have one more.
std::string nearly_even_layout(const ModelConfig& config, int64_t stages) {
  if (config.num_layers % stages == 0) return "";
  std::string out = "E";
  for (int64_t stage = 0; stage < stages; ++stage) {
    if (stage > 0) out += '|';
    out.append(static_cast<size_t>(config.num_layers / stages + (stage < config.num_layers % stages)), 't');
  }
  return out.append(static_cast<size_t>(config.mtp_num_layers), 'm') + 'L';
}

ModelConfig laid_out(ModelConfig config, const RankLayout& layout) {
  config.tensor_model_parallel_size = layout.tp;
  config.pipeline_model_parallel_size = layout.pp;
  config.virtual_pipeline_model_parallel_size = 0;
  config.pipeline_model_parallel_layout = nearly_even_layout(config, layout.pp);
  config.context_parallel_size = 1;
  config.expert_model_parallel_size = layout.ep;
  config.expert_tensor_parallel_size = layout.etp;
  config.sequence_parallel = false;
  return config;
}

// `wrong` says what does not divide over a number of ranks.
void require_divisible(const char* flag, int64_t asked, const std::function<std::string(int64_t ranks)>& wrong) {
  const std::string problem = wrong(asked);
  if (problem.empty()) return;
  std::vector<int64_t> good;
  for (int64_t ranks = 1; ranks <= 1024; ++ranks)
    if (wrong(ranks).empty()) good.push_back(ranks);
  fail("{} {}: {}; {} of this model can be one of {}", flag, asked, problem, flag, good);
}

void check_layout(const ModelConfig& config, const RankLayout& layout) {
  require_divisible("--tp", layout.tp, [&](int64_t ranks) { return wrong_over_tensor_ranks(config, ranks); });
  require_divisible("--etp", layout.etp, [&](int64_t ranks) { return wrong_over_expert_tensor_ranks(config, ranks); });
  require_divisible("--ep", layout.ep, [&](int64_t ranks) { return wrong_over_expert_ranks(config, ranks); });
}

// What all ranks read, one of them fetches first.
void one_first(Ranks& ranks, const std::function<void()>& body) {
  agree(ranks.world(), [&] {
    if (ranks.rank() == 0) body();
  });
  agree(ranks.world(), [&] {
    if (ranks.rank() != 0) body();
  });
}

}  // namespace

void add_model_flags(CLI::App& app, ModelChoice& choice) {
  app.add_option("--hf-model-path,--hf-model", choice.hf_model, "model in Hugging Face format: a folder or a hub id");
  app.add_option("--revision,--hf-revision", choice.revision, "branch, tag or commit of the hub id");
  app.add_option("--megatron-model-path,--megatron-path", choice.megatron_path, "Megatron checkpoint to take the weights from instead");
  app.add_option("--adapters", choice.adapters, "PEFT adapter folder");
  app.add_option("--torch-dtype,--dtype", choice.torch_dtype, "auto (as stored), bfloat16, float16 or float32")->capture_default_str();
  app.add_option("--device", choice.device, "auto, cpu, cuda or cuda:N")->capture_default_str();
  within(app.add_option("--threads", choice.threads, "CPU threads (0: all cores)")->capture_default_str(), 0, kMostThreads);
  within(app.add_option("--tp,--tensor-model-parallel-size", choice.layout.tp, "ranks that share each matrix")->group("Layout"), 1);
  within(app.add_option("--pp,--pipeline-model-parallel-size", choice.layout.pp, "stages of layers")->group("Layout"), 1);
  within(app.add_option("--ep,--expert-model-parallel-size", choice.layout.ep, "ranks that share the experts")->group("Layout"), 1);
  within(app.add_option("--etp,--expert-tensor-parallel-size", choice.layout.etp, "ranks that share each expert")->group("Layout"), 1);
}

void add_sampling_flags(CLI::App& app, SamplingOptions& sampling) {
  app.add_option("--temperature", sampling.temperature, "0: the most likely token, always (the default)")->group("Sampling");
  within(app.add_option("--top-k", sampling.top_k, "draw among the k most likely tokens")->group("Sampling"), 0);
  app.add_option("--top-p", sampling.top_p, "draw among the fewest tokens whose probabilities reach this sum")->group("Sampling");
  app.add_option("--min-p", sampling.min_p, "draw among tokens at least this likely relative to the likeliest")->group("Sampling");
  app.add_option("--seed", sampling.seed, "of the draws")->group("Sampling")->capture_default_str();
}

void settle_sampling(const CLI::App& app, SamplingOptions& sampling) {
  const bool filtered = app.count("--top-k") + app.count("--top-p") + app.count("--min-p") > 0;
  if (filtered && app.count("--temperature") == 0) sampling.temperature = 1.0;
  check_sampling(sampling);
}

int64_t RankLayout::ranks() const { return pp * std::lcm(tp, ep * etp); }

std::unique_ptr<Model> load_model(const fs::path& weights, const std::string& torch_dtype, const at::Device& device, const RankLayout& layout, Ranks& ranks) {
  std::unique_ptr<WeightSource> source;
  ModelOptions options;
  ModelConfig config;
  std::optional<Mesh> mesh;
  options.device = device;
  fs::path iteration;  // of a Megatron checkpoint: rank 0 looks for all, while a run may write there
  agree(ranks.world(), [&] {
    if (ranks.rank() == 0 && is_native_checkpoint(weights)) iteration = iteration_directory(weights);
  });
  iteration = gather_text(ranks.world(), iteration.string())[0];
  std::string content;
  agree(ranks.world(), [&] {
    source = WeightSource::open(iteration.empty() ? weights : iteration);
    content = format("weights with content {}", source->fingerprint());
  });
  agree_on_settings(ranks.world(), {content}, "what it reads is");
  agree(ranks.world(), [&] {
    source->check_part({ranks.rank(), ranks.size()}, WeightSource::Contents::weights);
    options.dtype = scalar_type(torch_dtype == "auto" ? source->dtype(source->rules().rules.front()) : dtype_from_user(torch_dtype));
    check_layout(source->config(), layout);
    config = laid_out(source->config(), layout);
    mesh.emplace(mesh_sizes(config, ranks.size()));
  });
  const Groups groups = mesh_groups(ranks, *mesh);
  std::unique_ptr<Model> model;
  agree(ranks.world(), [&] {
    model = std::make_unique<Model>(config, groups, options);
    const auto start = std::chrono::steady_clock::now();
    source->take_as_checked();
    model->load(*source);
    wait_for_device(device);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (ranks.rank() == 0 && (seconds > 1 || !device.is_cpu())) log_info("weights read in {:.2f} s, onto {}", seconds, device.str());
  });
  return model;
}

LanguageModel load_language_model(const ModelChoice& choice, const at::Device& device, Ranks& ranks) {
  LanguageModel out;
  fs::path hf;
  agree(ranks.world(), [&] { check_choice(choice); });
  if (choice.threads > 0) at::set_num_threads(static_cast<int>(choice.threads));
  one_first(ranks, [&] {
    if (!choice.hf_model.empty())
      hf = choice.megatron_path.empty() ? resolve_model(choice.hf_model, choice.revision) : resolve_tokenizer(choice.hf_model, choice.revision);
  });
  agree(ranks.world(), [&] {
    out.tokenizer_folder = hf.empty() ? megatron_tokenizer(choice.megatron_path) : hf;
    out.tokenizer = std::make_unique<Tokenizer>(Tokenizer::load(out.tokenizer_folder));
    out.stop_ids = stop_ids_of(hf.empty() ? out.tokenizer_folder.parent_path() / kKeptFolder : hf, *out.tokenizer);
  });
  out.model = load_model(choice.megatron_path.empty() ? hf : fs::path(choice.megatron_path), choice.torch_dtype, device, choice.layout, ranks);
  const int64_t largest = out.tokenizer->max_id(), rows = out.model->config().vocab_size;
  agree(ranks.world(), [&] {
    require(largest < rows, "{}: the tokenizer gives ids up to {}, the model's embedding has {} rows", out.tokenizer_folder, largest, rows);
  });
  return out;
}

}  // namespace ponte
