// Which layers a pipeline stage holds. Stages are numbered in the order of a forward pass; with c chunks per rank, stage s lies on rank s % ranks as its chunk
// s / ranks. Sources: megatron/core/transformer/transformer_block.py (get_num_layers_to_build), pipeline_parallel_layer_layout.py (layout strings).
#pragma once
#include <cstdint>
#include <string_view>
#include <vector>

#include "config/model_config.h"

namespace ponte {

struct Stage {
  int64_t first_layer = 0, layers = 0;
  bool embedding = false, loss = false;  // loss: final norm, output layer, loss
  int64_t prediction_layers = 0;         // multi-token prediction layers
};

// How the layers of a model are spread; [ranks x chunks] in the order of a forward pass.
struct PipelineSplit {
  int64_t ranks = 1, chunks = 1;
  std::vector<Stage> stages;

  const Stage& at(int64_t rank, int64_t chunk) const { return stages[static_cast<size_t>(chunk * ranks + rank)]; }
  std::vector<Stage> of_rank(int64_t rank) const;
};
// UserError when the layers do not divide or the layout string is wrong; it names what was found and what was wanted.
PipelineSplit pipeline_split(const ModelConfig& config);

// One string of layers per stage out of Megatron's notation: E embedding, t decoder layer, m prediction layer, L loss, | between stages, x*n and (...)*n for
// repetition; commas mean nothing. UserError for anything else.
std::vector<std::string> parse_pipeline_layout(std::string_view text);

}  // namespace ponte
