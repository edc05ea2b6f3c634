// The files of an HF model folder that are not weights: they ride along in a Megatron checkpoint, so that export needs nothing but the checkpoint.
#pragma once
#include <string>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "config/model_config.h"
#include "families/rule.h"

namespace ponte {

// Names (relative) of the tokenizer's files present in `directory`: tokenizer.json, vocabulary, merges, special tokens, chat template.
std::vector<std::string> tokenizer_files(const fs::path& directory);
// Into <iteration>/tokenizer (as Megatron Bridge keeps them) and <iteration>/ponte (config.json, generation_config.json).
void keep_hf_files(const fs::path& hf_directory, const fs::path& iteration_directory);
// Where HF's storage of the weights is not the family's usual one (packed experts, projections apart): its tensors' names and shapes into
// <iteration>/ponte, so that export writes the same tensors again. `used` is the rule table of the HF folder.
void keep_hf_storage(const ModelConfig& config, const RuleTable& used, const fs::path& iteration_directory);
// What keep_hf_storage kept; empty when it kept nothing. UserError when the file is damaged.
HfTensors kept_hf_storage(const fs::path& iteration_directory);
// The same for a checkpoint of a run: `model` is what the run took its weights from, an HF folder or a Megatron checkpoint (root or iteration); nothing happens
// when it is neither.
void pass_on_hf_storage(const fs::path& model, const fs::path& iteration_directory);
// Tokenizer files and generation_config.json back into an HF folder, from an iteration or from another HF folder; config.json is not copied.
void restore_hf_files(const fs::path& from, const fs::path& hf_directory);
// bos_token_id, eos_token_id and pad_token_id of a config.json made afresh, from the tokenizer's files in `directory`, as far as they say.
void add_token_ids(Json& config, const fs::path& directory);

}  // namespace ponte
