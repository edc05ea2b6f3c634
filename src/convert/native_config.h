// The architecture of a Megatron checkpoint, from the best witness it carries: the HF config.json Ponte keeps in it, Megatron Bridge's run_config.yaml, or the
// arguments Megatron-LM stores in common.pt.
#pragma once
#include "config/model_config.h"
#include "format/torch_dist.h"

namespace ponte {

// UserError naming the folder and what was looked for when there is no witness.
ModelConfig native_model_config(const fs::path& iteration_directory, const TorchDistReader& reader);

// What its run_config.yaml says in "section.key": true; false where there is no such file, section or key.
bool run_config_flag(const fs::path& iteration_directory, const char* section, const char* key);

// The folder inside an iteration where Ponte keeps HF's config.json, generation_config.json and its manifest; Megatron ignores it.
inline constexpr const char* kKeptFolder = "ponte";

}  // namespace ponte
