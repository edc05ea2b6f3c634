#include "config/limits.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace ponte {

int64_t longest_sequence(const ModelConfig& c) {
  if (c.max_position_embeddings <= 0) return std::numeric_limits<int64_t>::max();
  const bool stretched = c.rope_scaling_type == "linear" || c.rope_scaling_type == "dynamic" || c.rope_scaling_type == "yarn";
  if (!stretched || !(c.rope_scaling_factor > 1)) return c.max_position_embeddings;
  const int64_t original = c.original_max_position_embeddings > 0 ? c.original_max_position_embeddings : c.max_position_embeddings;
  return std::max(c.max_position_embeddings, static_cast<int64_t>(std::llround(static_cast<double>(original) * c.rope_scaling_factor)));
}

}  // namespace ponte
