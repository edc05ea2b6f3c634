#include "convert/hf_files.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/errors.h"
#include "convert/native_config.h"
#include "convert/segment_source.h"
#include "families/registry.h"

namespace ponte {
namespace {

constexpr const char* kTokenizerFiles[] = {"tokenizer.json",  "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",   "vocab.json",
                                           "merges.txt",      "vocab.txt",             "tokenizer.model",         "chat_template.jinja", "chat_template.json",
                                           "preprocessor_config.json"};
constexpr const char* kGenerationConfig = "generation_config.json";
constexpr const char* kHfStorage = "hf_tensors.json";

// Through links (the hub's cache is made of them), as a plain file.
void copy_plainly(const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::copy_file(from, to, fs::copy_options::overwrite_existing, error);
  require(!error, "cannot copy {} to {}: {}", from, to, error.message());
  fs::permissions(to, fs::perms::owner_write, fs::perm_options::add, error);
}

}  // namespace

std::vector<std::string> tokenizer_files(const fs::path& directory) {
  std::vector<std::string> out;
  for (const char* name : kTokenizerFiles)
    if (fs::exists(directory / name)) out.emplace_back(name);
  return out;
}

void keep_hf_files(const fs::path& hf, const fs::path& iteration) {
  const fs::path kept = iteration / kKeptFolder, tokenizer = iteration / "tokenizer";
  fs::create_directories(kept);
  copy_plainly(hf / "config.json", kept / "config.json");
  if (fs::exists(hf / kGenerationConfig)) copy_plainly(hf / kGenerationConfig, kept / kGenerationConfig);
  const std::vector<std::string> names = tokenizer_files(hf);
  if (!names.empty()) fs::create_directories(tokenizer);
  for (const std::string& name : names) copy_plainly(hf / name, tokenizer / name);
}

void keep_hf_storage(const ModelConfig& config, const RuleTable& used, const fs::path& iteration) {
  const std::string storage = unusual_storage(config, used);
  if (!storage.empty()) write_file_atomically(iteration / kKeptFolder / kHfStorage, storage);
}

HfTensors kept_hf_storage(const fs::path& iteration) {
  const fs::path file = iteration / kKeptFolder / kHfStorage;
  return fs::exists(file) ? read_storage(read_file(file), file.string()) : HfTensors();
}

void pass_on_hf_storage(const fs::path& model, const fs::path& iteration) {
  const fs::path target = iteration / kKeptFolder / kHfStorage;
  if (is_hf_checkpoint(model)) {
    ModelConfig config = model_config_from_hf(model / "config.json");
    const HfTensors tensors = hf_tensors(model);
    read_presence(tensors, config);
    keep_hf_storage(config, rule_table(config, tensors), iteration);
  } else if (is_native_checkpoint(model)) {
    const fs::path kept = iteration_directory(model) / kKeptFolder / kHfStorage;
    if (fs::exists(kept)) copy_plainly(kept, target);
  }
}

void restore_hf_files(const fs::path& from, const fs::path& hf) {
  const fs::path tokenizer = fs::exists(from / "tokenizer") ? from / "tokenizer" : from;
  for (const std::string& name : tokenizer_files(tokenizer)) copy_plainly(tokenizer / name, hf / name);
  for (const fs::path& folder : {from / kKeptFolder, from})
    if (fs::exists(folder / kGenerationConfig)) {
      copy_plainly(folder / kGenerationConfig, hf / kGenerationConfig);
      return;
    }
}

void add_token_ids(Json& config, const fs::path& directory) {
  const fs::path names = directory / "tokenizer_config.json", tokens = directory / "tokenizer.json";
  if (!fs::exists(names) || !fs::exists(tokens)) return;
  const Json tokenizer = read_json(tokens), settings = read_json(names);
  if (!tokenizer.is_object() || !tokenizer.contains("added_tokens") || !tokenizer["added_tokens"].is_array() || !settings.is_object()) return;
  for (const char* which : {"bos_token", "eos_token", "pad_token"}) {
    if (!settings.contains(which)) continue;
    const Json& named = settings[which];
    const Json content = named.is_object() ? named.value("content", Json()) : named;  // a text, or an added token written out
    for (const Json& token : tokenizer["added_tokens"])
      if (token.is_object() && content.is_string() && token.value("content", Json()) == content && token.contains("id") && token["id"].is_number_integer())
        config[std::string(which) + "_id"] = token["id"];
  }
}

}  // namespace ponte
