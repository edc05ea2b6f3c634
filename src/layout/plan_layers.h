// A model's layers as the rule table has them, those that are alike counted once, and what one rank holds of each. Everything a plan says of sizes is a sum
// over slice_of(rule), the same slices a Model allocates; there is no second formula.
#pragma once
#include <cstdint>
#include <string_view>
#include <vector>

#include "config/config.h"
#include "families/rule.h"
#include "layout/flops.h"
#include "layout/placement.h"

namespace ponte {

// Layers with the same leaves and shapes.
struct LayerClass {
  std::vector<const Rule*> rules;  // of one of them; of its experts only the first
  int64_t experts = 0;
  const Rule* find(std::string_view leaf) const;  // with or without a prefix inside the layer; nullptr: the layer has none
};

struct ModelLayers {
  ModelConfig config;              // the parallel sizes in it are not used
  PeftConfig peft;                 // with a scheme: adapters are trained, and nothing else
  RuleTable table;
  std::vector<LayerClass> classes;
  std::vector<size_t> decoder, prediction;  // class of each layer; of each multi-token prediction layer
  const Rule* embedding = nullptr;
  const Rule* final_norm = nullptr;
  const Rule* output = nullptr;    // nullptr: tied to the embedding
  int64_t parameters = 0;          // of the whole model
  int64_t active_parameters = 0;   // that one token meets
  double training_flops_per_token = 0;

  explicit ModelLayers(const ModelConfig& config, const PeftConfig& peft = {});
  bool all_trained() const { return peft.scheme.empty(); }
  ModelLayers(const ModelLayers&) = delete;
};

// How a layer is cut over the ranks that share it.
struct LayerShards {
  TensorParallel tensor;
  TensorParallel expert_tensor;
  int64_t expert = 1;
};
LayerShards layer_shards(const ModelConfig& parallel_sizes);

// Elements one rank holds, by how they are trained.
struct WeightCount {
  int64_t dense = 0;   // gradients summed over data and context ranks
  int64_t fp32 = 0;    // as dense, kept in fp32 whatever the parameters' type
  int64_t expert = 0;  // gradients summed over the ranks that hold the same experts
  int64_t frozen = 0;  // fp32, without a gradient: balancing biases
  int64_t base = 0;    // under adapters: in the parameters' type, without a gradient
  // Of these, elements whose gradient tensor-parallel ranks sum, and those of word embeddings that two stages hold.
  int64_t summed = 0, tied = 0;
  // And of weights some of whose rows several of them hold (more tensor-parallel ranks than query groups).
  int64_t with_sharers = 0;
  int64_t total() const { return dense + fp32 + expert + frozen + base; }
};
WeightCount operator+(const WeightCount& a, const WeightCount& b);

// What one rank holds of a layer. Widths are elements of one token's row; 0: the layer has no such part.
struct LocalLayer {
  WeightCount weights;
  int64_t hidden = 0;
  // Attention: packed projection, heads x head dim, key heads x head dim.
  int64_t projection = 0, heads_width = 0, keys_width = 0, head_dim = 0;
  bool head_norms = false, output_gate = false;
  // Gated delta net: in_proj, convolution, value heads x dim, value heads; elements of the heads' states.
  int64_t delta_projection = 0, delta_convolution = 0, delta_values = 0, delta_heads = 0, delta_state = 0;
  int64_t delta_key_dim = 0, delta_taps = 0;  // inputs the convolution looks back
  // Feed-forward; sparse: of one expert.
  int64_t ffn = 0, expert_ffn = 0, shared_ffn = 0;
  int64_t experts = 0, local_experts = 0, choices = 0;
  bool shared_gate = false;
  bool prediction = false;         // a multi-token prediction layer: its projection joins two rows of `hidden`
  int64_t largest_matrix = 0, largest_expert_matrix = 0;  // elements: a weight gradient's product before it is added
  Flops flops;                     // forward, per token of the tensor region
  Flops replicated_flops;          // forward, per token of the residual stream: router, gate of the shared expert
  double expert_flops = 0;         // forward, per row an expert of this rank gets
};
// UserError when a parameter does not divide.
LocalLayer local_layer(const ModelLayers& layers, size_t layer_class, const LayerShards& shards);
// Elements of a rule outside the layers on one rank, padding included.
int64_t local_elements(const Rule& rule, const TensorParallel& tensor_parallel);

}  // namespace ponte
