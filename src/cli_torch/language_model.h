// What generate, chat and verify-forward have in common: the flags that choose a model, and the model, tokenizer and stop tokens they lead to.
#pragma once
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "comm/ranks.h"
#include "generate/generator.h"
#include "model/model.h"
#include "text/tokenizer.h"

namespace CLI {
class App;
}

namespace ponte {

// How a model lies over the ranks that run it.
struct RankLayout {
  int64_t tp = 1, pp = 1, ep = 1, etp = 1;
  int64_t ranks() const;  // the fewest that this layout takes
};

struct ModelChoice {
  std::string hf_model, revision, megatron_path, adapters;
  std::string torch_dtype = "auto";
  std::string device = "auto";
  RankLayout layout;
  int64_t threads = 0;
};

void add_model_flags(CLI::App& app, ModelChoice& choice);
// Flags in which ranks of one run may differ.
inline constexpr std::string_view kOfAMachine[] = {"--device", "--threads", "--nproc-per-node"};
void add_sampling_flags(CLI::App& app, SamplingOptions& sampling);
// top-k, top-p and min-p say that a draw is wanted: the temperature is then 1 unless one was given.
void settle_sampling(const CLI::App& app, SamplingOptions& sampling);

struct LanguageModel {
  std::filesystem::path tokenizer_folder;  // with generation_config.json and chat template where there are any
  std::unique_ptr<Model> model;
  std::unique_ptr<Tokenizer> tokenizer;
  std::vector<int32_t> stop_ids;
};

// The weights alone, from an HF folder or a Megatron checkpoint. dtype "auto": as stored. Each rank reads its own shard. Collective over the ranks.
std::unique_ptr<Model> load_model(const std::filesystem::path& weights, const std::string& torch_dtype, const at::Device& device,
                                  const RankLayout& layout, Ranks& ranks);

// Weights from --megatron-model-path when given, else from --hf-model-path; the tokenizer the other way round. Collective over the ranks.
LanguageModel load_language_model(const ModelChoice& choice, const at::Device& device, Ranks& ranks);

}  // namespace ponte
