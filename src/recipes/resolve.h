// What a run will do, from everything the user said: recipe < configuration files in order < the HF model < the command line. Both
// `ponte train --dry-run` and the training program use this, so what is printed is what runs.
#pragma once
#include <string>
#include <vector>

#include "config/config.h"
#include "config/document.h"
#include "hub/hub.h"

namespace ponte {

struct RunRequest {
  std::string recipe;                     // "": Bridge's defaults
  std::string layout;                     // "": the recipe's own; "documentation": the parallel sizes of Bridge's Qwen page
  std::vector<std::string> config_files;  // YAML, later ones win
  std::string hf_model, revision;         // folder or hub id; architecture, tokenizer and weights
  std::vector<std::string> overrides;     // "section.key=value", the last one wins
  HubFiles hf_files = HubFiles::model;    // what of hf_model must be on this machine: `tokenizer` when nothing will be computed
  int64_t world_size = 1;                 // ranks, or kFewestRanks; batch sizes follow from it where they are not given
};
inline constexpr int64_t kFewestRanks = 0;  // as few as the layout fits on

struct ResolvedRun {
  Config config;     // finalized, not yet validated (that wants the number of ranks)
  Origins origins;   // where each key's value comes from
  std::vector<std::string> without_effect;  // Bridge keys that were given and have no meaning here, "logger.wandb_project=x (file my.yaml line 3)"
  std::string hf_model_folder;              // hf_model on this machine; "" when none was given
};

ResolvedRun resolve_run(const RunRequest& request);

// The whole configuration as YAML, the origin of every value that is not a default as a comment behind it.
std::string effective_config(const ResolvedRun& run);

}  // namespace ponte
