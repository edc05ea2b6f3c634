// All layouts of a model over N GPUs that are worth a look: which run, which do not and why, the fastest first.
#pragma once
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "layout/plan.h"

namespace ponte {

// Axes the search must leave as they are (the user said them); the others vary.
struct FixedAxes {
  bool tensor = false, pipeline = false, virtual_pipeline = false, context = false, expert = false, expert_tensor = false, micro_batch = false,
       recompute = false;
};

struct Layout {
  int64_t tensor = 1, pipeline = 1, chunks = 1, context = 1, expert = 1, expert_tensor = 1, micro_batch = 1;
  std::string text() const;  // "TP2 PP8 EP32 mb1"
};

struct Rejection {
  Layout layout;
  std::string kind;    // "memory", "pipeline split", ...: what rejections are counted by
  std::string reason;  // with its numbers
  double excess = 0;   // memory: how much is missing, bytes
};

struct SearchResult {
  int64_t tried = 0, fitting = 0;
  std::vector<Plan> best;              // fastest first
  std::vector<Rejection> rejected;
};

// `config`: finalized; its batch, length and data stay. Keeps the `keep` fastest.
SearchResult search_layouts(const ModelLayers& layers, const Config& config, int64_t ranks, const Machine& machine, const FixedAxes& fixed, size_t keep);

// What to paste behind `ponte train` for this plan: every key in which it differs from `from`.
std::vector<std::string> overrides_of(const Plan& plan, const Config& from);

}  // namespace ponte
