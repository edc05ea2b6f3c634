// What a model's configuration allows.
#pragma once
#include <string>

#include "config/model_config.h"

namespace ponte {

// The longest sequence the positions serve: max_position_embeddings, stretched by the scaling that counts from the original length (linear, dynamic, yarn;
// llama3's is in max_position_embeddings already), as vLLM derives its max_model_len. INT64_MAX when the configuration names none.
int64_t longest_sequence(const ModelConfig& config);

// What is wrong with the numbers by which tokens choose experts, or "".
std::string wrong_routing(const ModelConfig& config);

}  // namespace ponte
