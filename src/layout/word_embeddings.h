// Where the word embeddings lie in a pipeline.
#pragma once
#include "config/model_config.h"

namespace ponte {

// Whether a pipeline's last stage keeps a copy of the word embeddings: for a tied output layer, or for prediction layers, which look words up. Both
// copies' gradients are added, so that the two stay equal.
inline bool has_two_embeddings(const ModelConfig& c) { return c.share_embeddings_and_output_weights || c.mtp_num_layers > 0; }

}  // namespace ponte
