// Settings that change what a model computes from the same weights, and which of them a Hugging Face config.json can say.
#pragma once
#include "config/document.h"

namespace ponte {

// Those in which two models differ; left and right are their values as text. Run-time settings, sizes that tensors show and training's own are not among them.
std::vector<ConfigDifference> differences_in_mathematics(const ModelConfig& a, const ModelConfig& b);

// Settings of `config` that its family's config.json cannot say: "model.rotary_percent=0.5". Empty: a model exported from it computes the same.
std::vector<std::string> settings_config_json_cannot_say(const ModelConfig& config);

}  // namespace ponte
